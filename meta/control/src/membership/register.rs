//! Registrations: who is let in, as which life, with which stores (R33, R34, R35).
//!
//! A registration that changes nothing in the map is answered at once. Any other waits for the map that has it: its lives, addresses, weights
//! and, for a node that joins, its number and stores. That same map puts the members of a store whose life is new out.

use std::collections::BTreeSet;

use wire::control::{
    Condition, Life, LogEnd, Registration, RegistrationRefusal, RegistrationReply, StoreReport, StoreVerdict,
};
use wire::limits::{MAP_NAME_BYTES_MAX, NODE_STORES_MAX, STORE_LIVES_MAX};
use wire::map::{Map, Node, Standing, Store, Unit};
use wire::planted::{Bug, planted};
use wire::{Incarnation, MapNumber, Nanos, NodeId};

use super::Leader;
use super::config::REGISTRATIONS_MAX;
use super::event::{Effect, Effects, Note};
use super::plan::Draft;

/// A registration that waits for its map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub(super) token: u64,
    registration: Registration,
    /// The map that was proposed with it.
    pub(super) number: Option<MapNumber>,
    /// Judged by the map before that one.
    judged: Option<Judged>,
}

/// A store that a node has and the map doesn't: `disk replace` may take it in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stray {
    pub(super) node: NodeId,
    /// The life of the node that registered it.
    life: Life,
    pub(super) report: StoreReport,
}

/// Stores without a place in the map that are remembered (I13).
const STRAYS_MAX: usize = 4_096;
const GIB: u64 = 1 << 30;

/// What is thought of a registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Judged {
    /// `None`: it joins.
    node: Option<NodeId>,
    verdicts: Vec<StoreVerdict>,
    /// A store has a later life than the map knows: the process that had it before is dead (R33).
    is_fresh: bool,
}

impl Leader {
    pub(super) fn on_registered(
        &mut self,
        now: Nanos,
        map: &Map,
        token: u64,
        registration: &Registration,
        effects: &mut Effects,
    ) {
        let judged = match self.judge(map, registration) {
            Ok(judged) => judged,
            Err(refusal) => return refuse(token, refusal, effects),
        };
        if !changes(map, registration, &judged) {
            let pending =
                Pending { token, registration: registration.clone(), number: None, judged: Some(judged) };
            self.is_due = true;
            return self.accept(now, map, pending, effects);
        }
        // The same node again: its last answer was lost, or it was started anew meanwhile.
        let is_same = |pending: &Pending| pending.registration.life == registration.life;
        if let Some(place) = self.registrations.iter().position(is_same) {
            let old = std::mem::replace(&mut self.registrations[place].token, token);
            return refuse(old, RegistrationRefusal::Busy, effects);
        }
        if self.registrations.len() >= REGISTRATIONS_MAX {
            return refuse(token, RegistrationRefusal::Busy, effects);
        }
        let registration = registration.clone();
        self.registrations.push(Pending { token, registration, number: None, judged: None });
        self.is_due = true;
    }

    fn judge(&self, map: &Map, registration: &Registration) -> Result<Judged, RegistrationRefusal> {
        check_form(registration)?;
        let node = self.who(map, registration)?;
        let other_name = map.nodes.iter().find(|known| known.name == registration.name);
        if other_name.is_some_and(|known| Some(known.node) != node) {
            return Err(RegistrationRefusal::NameTaken);
        }
        let verdicts: Vec<StoreVerdict> =
            registration.stores.iter().map(|report| self.verdict(map, node, registration, report)).collect();
        let raises = |(report, verdict): (&StoreReport, &StoreVerdict)| {
            let known =
                self.nodes.place(report.store).map(|place| map.stores[usize::from(place)].incarnation);
            *verdict == StoreVerdict::Accepted && known.is_some_and(|known| report.incarnation > known)
        };
        let is_fresh = registration.stores.iter().zip(&verdicts).any(raises);
        let alive = node.and_then(|node| self.nodes.node(node)).and_then(|node| node.life);
        if alive.is_some_and(|life| life != registration.life) && !is_fresh {
            return Err(RegistrationRefusal::NodeAlive);
        }
        Ok(Judged { node, verdicts, is_fresh })
    }

    /// Which node it is; `None`: one that may join.
    fn who(&self, map: &Map, registration: &Registration) -> Result<Option<NodeId>, RegistrationRefusal> {
        let is_known = |node: NodeId| map.nodes.binary_search_by_key(&node, |known| known.node).is_ok();
        if registration.node != NodeId(0) {
            let node = registration.node;
            return if is_known(node) { Ok(Some(node)) } else { Err(RegistrationRefusal::NodeUnknown) };
        }
        let mut places = registration.stores.iter().filter_map(|report| self.nodes.place(report.store));
        if let Some(place) = places.next() {
            // It joined, and didn't hear of it.
            let node = map.stores[usize::from(place)].node;
            return if is_known(node) { Ok(Some(node)) } else { Err(RegistrationRefusal::NodeUnknown) };
        }
        if !registration.join {
            return Err(RegistrationRefusal::NodeUnknown);
        }
        match registration.stores.iter().find(|report| !is_empty(report)) {
            Some(report) => Err(RegistrationRefusal::NotEmpty { store: report.store }),
            None => Ok(None),
        }
    }

    fn verdict(
        &self,
        map: &Map,
        node: Option<NodeId>,
        registration: &Registration,
        report: &StoreReport,
    ) -> StoreVerdict {
        let Some(node) = node else { return StoreVerdict::Accepted };
        let Some(place) = self.nodes.place(report.store) else { return StoreVerdict::Unknown };
        let record = &map.stores[usize::from(place)];
        match record.standing {
            Standing::Member => (),
            Standing::Expelled => return StoreVerdict::Expelled,
            Standing::Forgotten => return StoreVerdict::Forgotten,
        }
        if (record.node, record.unit) != (node, report.unit) {
            return StoreVerdict::Elsewhere { node: record.node };
        }
        if report.condition == Condition::Failed || planted(Bug::ControlIgnoresIncarnation) {
            return StoreVerdict::Accepted;
        }
        let known = self.nodes.store(place);
        let same_life = known.life == Some(registration.life);
        // R34. An older copy doesn't remember the life that the map knows; another process can't have the same one.
        let is_known = record.incarnation == Incarnation(0) || report.lives.contains(&record.incarnation);
        let continues = report.incarnation == record.incarnation && (same_life || known.life.is_none());
        let begins = report.incarnation > record.incarnation && is_known;
        // Nor has it the batches that were heard of. A store that says itself that it lost the log's end is judged by that (R7).
        let lost_batches = report.sequence < known.sequence && !report.recovered_cut && !same_life;
        if !(continues || begins) || lost_batches {
            return StoreVerdict::Stale { known: record.incarnation, known_sequence: known.sequence };
        }
        StoreVerdict::Accepted
    }

    /// Puts what waits into the change that is being made.
    pub(super) fn take_registrations(&mut self, now: Nanos, draft: &mut Draft<'_>, effects: &mut Effects) {
        for mut pending in std::mem::take(&mut self.registrations) {
            let judged = match self.judge(draft.map, &pending.registration) {
                Ok(judged) => judged,
                Err(refusal) => {
                    refuse(pending.token, refusal, effects);
                    continue;
                }
            };
            if !changes(draft.map, &pending.registration, &judged) {
                pending.judged = Some(judged);
                self.accept(now, draft.map, pending, effects);
                continue;
            }
            match self.take_registration(&mut pending, judged, draft) {
                Ok(()) => self.registrations.push(pending),
                Err(refusal) => refuse(pending.token, refusal, effects),
            }
        }
    }

    fn take_registration(
        &self,
        pending: &mut Pending,
        judged: Judged,
        draft: &mut Draft<'_>,
    ) -> Result<(), RegistrationRefusal> {
        let registration = &pending.registration;
        let node = match judged.node {
            Some(node) => node,
            None => new_node(draft, registration)?,
        };
        let voter = draft.node(node).map_or(0, |known| known.voter);
        let record = Node {
            node,
            name: registration.name.clone(),
            rack: registration.rack.clone(),
            control: registration.control.clone(),
            voter,
        };
        if draft.node(node) != Some(&record) {
            draft.delta.nodes.insert(node, record);
        }
        for (report, verdict) in registration.stores.iter().zip(&judged.verdicts) {
            if *verdict == StoreVerdict::Accepted {
                self.take_store(draft, node, report)?;
            }
        }
        draft.is_urgent = true;
        (pending.number, pending.judged) = (Some(draft.number()), Some(judged));
        Ok(())
    }

    fn take_store(
        &self,
        draft: &mut Draft<'_>,
        node: NodeId,
        report: &StoreReport,
    ) -> Result<(), RegistrationRefusal> {
        let Some(place) = self.nodes.place(report.store) else {
            let place = draft.next_place().ok_or(RegistrationRefusal::Full)?;
            draft.delta.stores.insert(place, new_store(node, report));
            return Ok(());
        };
        let Some(known) = draft.store(place).cloned() else { return Ok(()) };
        let record = updated(&known, report);
        if record.incarnation > known.incarnation {
            draft.restarted.push((place, report.lacks));
        }
        if record != known {
            draft.delta.stores.insert(place, record);
        }
        Ok(())
    }

    /// The map is there: whoever is in it now is told.
    pub(super) fn answer_registrations(&mut self, now: Nanos, map: &Map, effects: &mut Effects) {
        let waiting = std::mem::take(&mut self.registrations);
        for pending in waiting {
            if pending.number.is_some_and(|number| number <= map.number) {
                self.accept(now, map, pending, effects);
            } else {
                self.registrations.push(pending);
            }
        }
    }

    /// Stores that the map didn't have when they were registered, and has now: their nodes aren't asked again.
    pub(super) fn take_strays_in(&mut self, map: &Map) {
        for (store, stray) in std::mem::take(&mut self.strays) {
            let Some(place) = self.nodes.place(store) else {
                self.strays.insert(store, stray);
                continue;
            };
            if map.stores[usize::from(place)].incarnation == stray.report.incarnation {
                self.nodes.accept_store(place, stray.life, &stray.report);
            } else {
                // Its node was started anew in between.
                self.nodes.ask_again(stray.node);
            }
        }
    }

    fn accept(&mut self, now: Nanos, map: &Map, pending: Pending, effects: &mut Effects) {
        let Pending { token, registration, judged, .. } = pending;
        let mut places = registration.stores.iter().filter_map(|report| self.nodes.place(report.store));
        let joined = || places.next().map(|place| map.stores[usize::from(place)].node);
        let named = || map.nodes.iter().find(|node| node.name == registration.name).map(|node| node.node);
        let Some(judged) = judged else { return refuse(token, RegistrationRefusal::Busy, effects) };
        let Some(node) = judged.node.or_else(joined).or_else(named) else {
            return refuse(token, RegistrationRefusal::Busy, effects);
        };
        let mut verdicts = registration.stores.iter().zip(&judged.verdicts);
        if verdicts.any(|(report, verdict)| {
            *verdict == StoreVerdict::Unknown && self.nodes.place(report.store).is_some()
        }) {
            // The map has the store since.
            return refuse(token, RegistrationRefusal::Busy, effects);
        }
        for (report, verdict) in registration.stores.iter().zip(&judged.verdicts) {
            if let (StoreVerdict::Stale { .. }, Some(place)) = (verdict, self.nodes.place(report.store)) {
                self.nodes.mark_stale(place);
                effects.note(Note::StoreStale(report.store));
            }
        }
        if !judged.verdicts.is_empty() && judged.verdicts.iter().all(is_put_out) {
            // A process that ended long ago, heard late, or a copy of the node. It is told, and nobody else's life ends with it.
            return accepted(token, node, map, &registration, judged.verdicts, effects);
        }
        self.nodes.clear_stores(map, node);
        let Registration { life, installed, .. } = &registration;
        let (life, installed) = (*life, *installed);
        let is_new = judged.is_fresh || judged.node.is_none();
        self.nodes.accept(now, node, life, installed.min(map.number), map.number, is_new);
        self.strays.retain(|_, stray| stray.node != node);
        for (report, verdict) in registration.stores.iter().zip(&judged.verdicts) {
            let place = self.nodes.place(report.store);
            match (verdict, place) {
                // One that was only announced, by a node that joins before it formats, isn't there yet: no chain waits for its promise.
                (StoreVerdict::Accepted, Some(_)) if report.incarnation == Incarnation(0) => (),
                (StoreVerdict::Accepted, Some(place)) => self.nodes.accept_store(place, life, report),
                (StoreVerdict::Unknown, None) if self.strays.len() < STRAYS_MAX => {
                    self.strays.insert(report.store, Stray { node, life, report: report.clone() });
                }
                _ => (),
            }
        }
        self.placement_due |= self.is_forming(map);
        effects.note(Note::NodeRegistered { node, life });
        accepted(token, node, map, &registration, judged.verdicts, effects);
    }
}

/// Whether a store can't take part under this id again.
fn is_put_out(verdict: &StoreVerdict) -> bool {
    !matches!(verdict, StoreVerdict::Accepted | StoreVerdict::Unknown)
}

fn accepted(
    token: u64,
    node: NodeId,
    map: &Map,
    registration: &Registration,
    verdicts: Vec<StoreVerdict>,
    effects: &mut Effects,
) {
    let stores = registration.stores.iter().map(|report| report.store).zip(verdicts).collect();
    let reply = RegistrationReply::Accepted { node, number: map.number, stores };
    effects.push(Effect::Registered { token, reply });
}

fn refuse(token: u64, refusal: RegistrationRefusal, effects: &mut Effects) {
    effects.push(Effect::Registered { token, reply: RegistrationReply::Refused(refusal) });
}

fn check_form(registration: &Registration) -> Result<(), RegistrationRefusal> {
    let mut seen = BTreeSet::new();
    let names = [&registration.name, &registration.rack, &registration.control];
    let addresses = registration.stores.iter().map(|report| &report.address);
    let fits = registration.stores.len() <= NODE_STORES_MAX
        && !registration.name.is_empty()
        && names.into_iter().chain(addresses).all(|name| name.len() <= MAP_NAME_BYTES_MAX)
        && registration.stores.iter().all(|report| placement::is_address(&report.address))
        && registration.stores.iter().all(|report| report.lives.len() <= STORE_LIVES_MAX)
        && registration.stores.iter().all(|report| seen.insert(report.store));
    if fits { Ok(()) } else { Err(RegistrationRefusal::Malformed) }
}

/// Whether the map has to change for it.
fn changes(map: &Map, registration: &Registration, judged: &Judged) -> bool {
    let Some(node) = judged.node else { return true };
    let known = map.nodes.iter().find(|known| known.node == node);
    let is_other = known.is_none_or(|known| {
        (&known.name, &known.rack, &known.control)
            != (&registration.name, &registration.rack, &registration.control)
    });
    let is_store_other = |(report, verdict): (&StoreReport, &StoreVerdict)| {
        let record = map.stores.iter().find(|record| record.store == report.store);
        *verdict == StoreVerdict::Accepted && record.is_some_and(|record| updated(record, report) != *record)
    };
    is_other || registration.stores.iter().zip(&judged.verdicts).any(is_store_other)
}

fn updated(known: &Store, report: &StoreReport) -> Store {
    let mut record = known.clone();
    record.address.clone_from(&report.address);
    if report.condition != Condition::Failed {
        // Lives only grow (I4).
        record.incarnation = record.incarnation.max(report.incarnation);
        if planted(Bug::ControlIgnoresIncarnation) {
            record.incarnation = report.incarnation;
        }
        // A store that is being emptied stays without weight.
        record.weight = if known.weight == 0 { 0 } else { weight(report) };
    }
    record
}

pub(super) fn new_store(node: NodeId, report: &StoreReport) -> Store {
    Store {
        store: report.store,
        node,
        unit: report.unit,
        address: report.address.clone(),
        incarnation: report.incarnation,
        weight: weight(report),
        standing: Standing::Member,
    }
}

/// GiB of capacity; a metadata replica holds no chunks.
fn weight(report: &StoreReport) -> u32 {
    match report.unit {
        Unit::Shard(_) => u32::try_from(report.capacity_bytes / GIB).unwrap_or(u32::MAX).max(1),
        Unit::Group(_) => 0,
    }
}

/// Whether a store holds nothing that could be lost.
pub(super) fn is_empty(report: &StoreReport) -> bool {
    report.used_bytes == 0 && report.log_end == LogEnd::default()
}

fn new_node(draft: &Draft<'_>, registration: &Registration) -> Result<NodeId, RegistrationRefusal> {
    if draft.nodes().any(|known| known.name == registration.name) {
        // Its own earlier life, most likely, which joins in this very change.
        return Err(RegistrationRefusal::Busy);
    }
    // A number is given once, whoever had it.
    let used = draft.nodes().map(|known| known.node.0).chain(draft.stores().map(|(_, store)| store.node.0));
    let highest = used.max().unwrap_or(0);
    if draft.nodes().count() >= placement::NODES_MAX {
        return Err(RegistrationRefusal::Full);
    }
    highest.checked_add(1).map(NodeId).ok_or(RegistrationRefusal::Full)
}
