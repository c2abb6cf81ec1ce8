//! `catena admin why`: how something is, since when, who is waited for, what happens next and what can be done, in sentences.
//!
//! Chains that are in the same state for the same reason are told of once: a node that is gone concerns thousands of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use client::InodeKind;
use wire::control::{ChainId, Condition, NodeStatus, Reason, Subject};
use wire::map::{Chain, Map, Phase, ReplicaState};

use super::names::{Names, chain_name, chain_of, chains};
use super::operator::Operator;
use super::reason::{self, Sentence};
use super::tally;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::text;

/// States of chains that are told of in detail: more are counted.
const STATES_MAX: usize = 16;

/// Explain why a node, a store, a chain or a file is as it is; without an argument, everything that isn't well
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin why
  catena admin why node node-2
  catena admin why chain slice-17
  catena admin why path /photos/cat.jpg")]
pub(crate) struct Why {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Node(NodeArgument),
    Store(StoreArgument),
    Chain(ChainArgument),
    Path(PathArgument),
}

/// Explain how a node is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin why node node-2")]
struct NodeArgument {
    /// Its name or number
    #[arg(value_name = "NODE")]
    node: String,
}

/// Explain how a store is, and what the chains wait for that it is a member of
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin why store node-2/shard-0")]
struct StoreArgument {
    /// NODE/shard-0, NODE/metadata, or its id or how that begins
    #[arg(value_name = "STORE")]
    store: String,
}

/// Explain how a chain is, and what it waits for
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin why chain slice-17
  catena admin why chain group-0")]
struct ChainArgument {
    /// Its name: slice-17, or 17 alone, or group-0
    #[arg(value_name = "CHAIN")]
    chain: String,
}

/// Explain how the chains are that hold a file's chunks and its metadata
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin why path /photos/cat.jpg")]
struct PathArgument {
    /// The file or directory: /VOLUME/path
    #[arg(value_name = "PATH")]
    path: OsString,
}

impl Why {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        operator.refresh();
        let subject = match self.what {
            None => return everything(context, &mut operator),
            Some(What::Path(argument)) => return about_path(context, &mut operator, &argument.path),
            Some(What::Node(argument)) => Subject::Node(operator.names().find_node(&argument.node)?),
            Some(What::Store(argument)) => Subject::Store(operator.names().find_store(&argument.store)?),
            Some(What::Chain(argument)) => Subject::Chain(operator.names().find_chain(&argument.chain)?),
        };
        tell(context, &mut operator, subject, &[])
    }
}

/// All that isn't well.
fn everything(context: &mut Context, operator: &mut Operator) -> Result<()> {
    let nodes = operator.nodes()?;
    let mut is_well = true;
    for node in nodes.iter().filter(|node| !is_node_well(node)) {
        is_well = false;
        tell(context, operator, Subject::Node(node.node), &[])?;
    }
    let map = operator.map().clone();
    let all: Vec<ChainId> = chains(&map).map(|(id, _)| id).collect();
    is_well &= tell_chains(context, operator, &map, &all)? == 0;
    if is_well {
        context.output.note(
            || {
                Object::new()
                    .with("subject", "cluster")
                    .with("kind", "well")
                    .with("text", "everything is well")
            },
            || "everything is well: all nodes are alive, and every copy serves".to_owned(),
        )?;
    }
    Ok(())
}

fn is_node_well(node: &NodeStatus) -> bool {
    let works = |condition: &Option<Condition>| matches!(condition, None | Some(Condition::Well));
    node.is_alive && node.stores.iter().all(|(_, condition)| works(condition))
}

/// A file's chains, and its metadata's.
fn about_path(context: &mut Context, operator: &mut Operator, path: &std::ffi::OsStr) -> Result<()> {
    let place = RemotePath::parse(path)?;
    let map = operator.map().clone();
    // Where the metadata doesn't answer, that is what is to be explained.
    let found = context.volume_of(&place).and_then(|volume| Ok((context.entry(&place, true)?, volume)));
    let (entry, volume) = match found {
        Ok(found) => found,
        Err(failure) if failure.exit == Exit::Unavailable => {
            context.output.failure(&failure);
            let groups: Vec<ChainId> = map.groups.iter().map(|group| ChainId::Group(group.group)).collect();
            tell_chains(context, operator, &map, &groups)?;
            return Err(failure.printed());
        }
        Err(failure) => return Err(failure),
    };
    let group = ChainId::Group(volume.info().group);
    let mut slices = BTreeSet::new();
    let mut chunks = 0_u64;
    if entry.attributes.kind == InodeKind::File {
        for chunk in volume.stored_chunks(&entry) {
            let chunk = chunk.map_err(|error| failure(&place, &error))?;
            chunks += 1;
            slices.insert(ChainId::Slice(wire::slice_of(chunk.id, u32::from(map.ring_bits))));
        }
    }
    let named = format!(
        "{place}: its metadata is in {}, its {} in {}",
        chain_name(group),
        text::count(chunks, "chunk"),
        text::count(slices.len() as u64, "slice")
    );
    let all: Vec<ChainId> = slices.into_iter().chain([group]).collect();
    context.output.note(
        || {
            let names: Vec<String> = all.iter().map(|id| chain_name(*id)).collect();
            Object::new()
                .with_bytes("path", &place.to_bytes())
                .with("kind", "path")
                .with("text", named.as_str())
                .with("chunks", chunks)
                .with("chains", names)
        },
        || named.clone(),
    )?;
    if tell_chains(context, operator, &map, &all)? == 0 {
        context.output.line("all copies of these chains serve")?;
    }
    Ok(())
}

/// Tells of those of these chains that aren't well, each state once; returns how many there are.
fn tell_chains(context: &mut Context, operator: &mut Operator, map: &Map, ids: &[ChainId]) -> Result<usize> {
    let states = by_state(map, ids);
    let count = states.iter().map(Vec::len).sum();
    for alike in states.iter().take(STATES_MAX) {
        tell(context, operator, Subject::Chain(alike[0]), &alike[1..])?;
    }
    let rest: usize = states.iter().skip(STATES_MAX).map(Vec::len).sum();
    if rest > 0 {
        let chains = text::count(rest as u64, "more chain");
        context.output.line(&format!("{chains} in other states: catena admin chain list"))?;
    }
    Ok(count)
}

/// Chains that aren't well, those together that are in one state: worst first, then most first.
fn by_state(map: &Map, ids: &[ChainId]) -> Vec<Vec<ChainId>> {
    let mut states: BTreeMap<State, Vec<ChainId>> = BTreeMap::new();
    for id in ids {
        let Some(chain) = chain_of(map, *id).filter(|chain| !tally::is_well(map, *id, chain)) else {
            continue;
        };
        states.entry(State::of(map, *id, chain)).or_default().push(*id);
    }
    let mut states: Vec<(State, Vec<ChainId>)> = states.into_iter().collect();
    states.sort_by_key(|(state, chains)| (state.rank, state.is_slice, usize::MAX - chains.len()));
    states.into_iter().map(|(_, chains)| chains).collect()
}

/// What is the same of chains that are told of together.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// 0: it serves nothing, 1: it takes no writes, 2: copies are missing.
    rank: u8,
    is_slice: bool,
    phase: Phase,
    serving: usize,
    min_in_sync: u8,
    /// Members that don't serve.
    others: BTreeSet<(u16, ReplicaState)>,
}

impl State {
    fn of(map: &Map, id: ChainId, chain: &Chain) -> Self {
        let others = chain.members.iter().filter(|member| member.state != ReplicaState::Serving);
        Self {
            rank: match tally::standing(map, id, chain) {
                tally::Standing::Down => 0,
                tally::Standing::ReadOnly => 1,
                _ => 2,
            },
            is_slice: matches!(id, ChainId::Slice(_)),
            phase: chain.phase,
            serving: chain.serving().count(),
            min_in_sync: chain.min_in_sync,
            others: others.map(|member| (member.store, member.state)).collect(),
        }
    }
}

/// Asks about a subject and prints the answer; `alike` are chains of which the same holds.
fn tell(context: &mut Context, operator: &mut Operator, subject: Subject, alike: &[ChainId]) -> Result<()> {
    let reasons = operator.why(subject)?;
    let names = operator.names();
    if reasons == [Reason::NotInMap] {
        return Err(Failure::new(
            Exit::NotFound,
            subject_name(names, subject),
            "the cluster map doesn't have it",
        )
        .next("see what there is: catena admin node list, catena admin chain list"));
    }
    let name = subject_name(names, subject);
    let sentences = reason::explain(names, subject, &reasons);
    if context.output.is_json() {
        for sentence in &sentences {
            let object = object(&name, alike, sentence);
            context.output.result(|| object, |_| Vec::new())?;
        }
        return Ok(());
    }
    let heading = match alike.len() {
        0 => name,
        more => format!("{name}, and {} in the same state", text::count(more as u64, "more chain")),
    };
    context.output.result(Object::new, |_| lines(&heading, &sentences).into_bytes())
}

fn subject_name(names: Names<'_>, subject: Subject) -> String {
    match subject {
        Subject::Node(node) => names.node(node),
        Subject::Store(store) => names.store(store),
        Subject::Chain(chain) => chain_name(chain),
    }
}

fn lines(heading: &str, sentences: &[Sentence]) -> String {
    let mut lines = vec![heading.to_owned()];
    for sentence in sentences {
        lines.push(format!("  {}", sentence.text));
        lines.extend(sentence.next.as_ref().map(|next| format!("    next: {next}")));
    }
    lines.join("\n")
}

fn object(name: &str, alike: &[ChainId], sentence: &Sentence) -> Object {
    Object::new()
        .with("subject", name)
        .with("kind", sentence.kind)
        .with("text", sentence.text.as_str())
        .with_some("next", sentence.next.as_deref())
        .with("alike", alike.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;

    #[test]
    fn chains_in_one_state_are_told_of_together_and_the_worst_first() {
        let mut map = sample::map();
        // Another one as the one that lost a member.
        map.slices[0] = map.slices[1];
        let all: Vec<ChainId> = chains(&map).map(|(id, _)| id).collect();
        let states: Vec<Vec<String>> = by_state(&map, &all)
            .iter()
            .map(|chains| chains.iter().map(|id| chain_name(*id)).collect())
            .collect();
        assert_eq!(states, [vec!["slice-3"], vec!["slice-2"], vec!["slice-0", "slice-1"]]);
    }

    #[test]
    fn sentences_stand_under_their_subject() {
        let sentences = [
            Sentence { kind: "a", text: "it is so".to_owned(), next: None },
            Sentence { kind: "b", text: "it waits".to_owned(), next: Some("do this".to_owned()) },
        ];
        assert_eq!(lines("slice-1", &sentences), "slice-1\n  it is so\n  it waits\n    next: do this");
        assert_eq!(
            object("slice-1", &[], &sentences[1]).line(),
            r#"{"v":1,"subject":"slice-1","kind":"b","text":"it waits","next":"do this","alike":0}"#
        );
    }
}
