//! One node of a cluster dies, and nothing else goes wrong: how long writes wait, and whether every read is answered.
//!
//! The node is the head, the middle or the tail of the metadata group's chain, or leads the control group; it is killed, or loses power and says nothing any more.
//! Clients write and read without a pause that a person would notice. What is measured of writes is the last answer, counted from the death, that the
//! death held up; a write that begins later than the limit waits no more.

use wire::map::ReplicaState;
use wire::meta::InodeKind;
use wire::{Nanos, Status, VolumeId};

use super::{Happening, Phase, QUIET_LIMIT, World};
use crate::checker;
use crate::history::{Action, Condition, Ending, Record, Seen};

/// Writes flow again within this after a death.
const RESUME_LIMIT: u64 = 3_500 * Nanos::MILLISECOND;
/// Whoever takes longer was held up.
const USUAL: u64 = 300 * Nanos::MILLISECOND;
/// Clients that write, and as many that read.
const PAIRS: usize = 4;
/// Files that are read.
const READ_FILES: u64 = 12;
/// Between two operations of a client.
const GAP: u64 = 40 * Nanos::MILLISECOND;
/// How long clients go on after the death.
const AFTERMATH: u64 = 10 * Nanos::SECOND;

impl World {
    /// The whole of such a seed.
    pub(super) fn one_death(&mut self) -> Result<(), String> {
        let start = self.schedule.now();
        self.start_nodes();
        self.form()?;
        let volume = self.make_volume()?;
        // No client thinks of anything by itself.
        self.phase = Phase::Calm;
        self.prepare_clients(volume)?;
        let at = self.schedule.now().after(self.random.between(1_000, 3_000) * Nanos::MILLISECOND);
        self.serve_until(at)?;
        let victim = self.victim()?;
        let death = self.schedule.now();
        self.last_fault = 1;
        if self.case.has_fault(1) {
            let by_power = (self.seed / 4).is_multiple_of(2);
            self.tally.count("death", if by_power { "by power" } else { "by a kill" });
            let (mut around, nodes) = self.around();
            nodes[victim].die(by_power, &mut around);
        }
        self.serve_until(death.after(AFTERMATH))?;
        self.until("the last operations", QUIET_LIMIT, |world| {
            (0..2 * PAIRS).all(|client| world.is_idle(client))
        })?;
        self.judge(death)?;
        self.calm()?;
        self.become_whole("after the death")?;
        self.calm_since = self.schedule.now();
        self.check()?;
        self.tally.count("seed", "verified");
        self.tally.virtual_nanos = self.schedule.now().since(start);
        Ok(())
    }

    fn prepare_clients(&mut self, volume: VolumeId) -> Result<(), String> {
        for client in 0..2 * PAIRS {
            self.add_client(client, volume);
            self.clients[client].workload.is_patient = true;
        }
        for number in 0..READ_FILES {
            let length = self.random.between(1, 4 * self.chunk_bytes);
            self.begin(0, put(format!("r{number}"), length));
            self.until("a file to be read", QUIET_LIMIT, |world| world.is_idle(0))?;
        }
        Ok(())
    }

    /// Which node dies: by its role.
    fn victim(&mut self) -> Result<usize, String> {
        let leader = self.leader().ok_or("nobody leads the control group")?;
        let map = self.nodes[leader].agent().expect("it leads").edition().map().as_map();
        let chain = &map.groups[0].chain;
        let serving = chain.members.iter().filter(|member| member.state == ReplicaState::Serving);
        let members: Vec<_> = serving.map(|member| map.stores[usize::from(member.store)].node).collect();
        let (role, node) = match self.seed % 4 {
            0 => ("head", self.by_id(members[0])),
            1 => ("middle", self.by_id(members[1])),
            2 => ("tail", self.by_id(members[2])),
            _ => ("control leader", Some(leader)),
        };
        let node = node.ok_or("the map names nodes")?;
        self.tally.count("death", role);
        self.trace.tell(self.schedule.now(), format_args!("fault 1: node {node} dies, which is {role}"));
        Ok(node)
    }

    /// Clients go on until then.
    fn serve_until(&mut self, end: Nanos) -> Result<(), String> {
        while self.schedule.now() < end {
            for client in 0..2 * PAIRS {
                if self.is_idle(client) {
                    let action = self.next_action(client);
                    self.begin(client, action);
                }
            }
            let pause = self.schedule.now().after(GAP);
            self.schedule.at(pause, Happening::Fault);
            self.until("a moment", QUIET_LIMIT, |world| world.schedule.now() >= pause)?;
        }
        Ok(())
    }

    fn next_action(&mut self, client: usize) -> Action {
        if client < PAIRS {
            let length = self.random.between(1, 2 * self.chunk_bytes);
            return put(format!("w{client}"), length);
        }
        let path = format!("r{}", self.random.below(READ_FILES));
        Action::Read { path, follow: false, from: 0, to: u64::MAX, pace: 0 }
    }

    fn judge(&mut self, death: Nanos) -> Result<(), String> {
        let (mut resumed, mut slowest) = (0, 0);
        for record in self.clients.iter().flat_map(|client| &client.workload.records) {
            let took = record.ended.since(record.began);
            match record.action {
                Action::Read { .. } if !is_read(record) => {
                    return Err(format!("a read failed: {}", checker::describe(record)));
                }
                Action::Read { .. } => slowest = slowest.max(took),
                _ => {
                    let was_under_way = record.began <= death && death < record.ended;
                    let is_fine = is_written(record) || (was_under_way && record.ending == Ending::Unknown);
                    if !is_fine || (record.began > death.after(RESUME_LIMIT) && took > USUAL) {
                        return Err(format!("a write failed or waited: {}", checker::describe(record)));
                    }
                    if took > USUAL && record.ended > death {
                        resumed = resumed.max(record.ended.since(death));
                    }
                }
            }
        }
        self.trace.tell(
            self.schedule.now(),
            format_args!(
                "writes resumed {} ms after the death, slowest read {} ms",
                resumed / Nanos::MILLISECOND,
                slowest / Nanos::MILLISECOND
            ),
        );
        if resumed > RESUME_LIMIT {
            return Err(format!("writes resumed {} ms after the death", resumed / Nanos::MILLISECOND));
        }
        self.tally.count("writes resume", "within 3.5 s");
        self.tally.count("writes resume", step(resumed, RESUME_STEPS));
        self.tally.count("slowest read", step(slowest, READ_STEPS));
        Ok(())
    }
}

fn put(path: String, length: u64) -> Action {
    Action::Replace { path, length, condition: Condition::Any, dress: None }
}

fn is_written(record: &Record) -> bool {
    matches!(record.ending, Ending::Executed { status: Status::Ok, .. })
}

fn is_read(record: &Record) -> bool {
    matches!(&record.ending, Ending::Found { seen: Seen { kind: InodeKind::File, bytes: Some(_), .. }, .. })
}

const RESUME_STEPS: &[(u64, &str)] = &[
    (500, "within 0.5 s"),
    (1_000, "within 1 s"),
    (1_500, "within 1.5 s"),
    (2_000, "within 2 s"),
    (2_500, "within 2.5 s"),
    (3_000, "within 3 s"),
];
const READ_STEPS: &[(u64, &str)] = &[
    (100, "within 0.1 s"),
    (500, "within 0.5 s"),
    (1_000, "within 1 s"),
    (2_000, "within 2 s"),
    (4_000, "within 4 s"),
    (10_000, "within 10 s"),
];

fn step(nanos: u64, steps: &[(u64, &'static str)]) -> &'static str {
    let found = steps.iter().find(|(most, _)| nanos <= most * Nanos::MILLISECOND);
    found.map_or(
        if steps.len() == READ_STEPS.len() && steps[0].0 == 100 { "longer" } else { "later" },
        |(_, name)| name,
    )
}
