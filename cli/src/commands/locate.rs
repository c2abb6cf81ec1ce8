//! `catena locate`.

use std::ffi::OsString;
use std::time::Duration;

use client::{CheckedReplica, Damage, InodeKind, StoredChunk};
use serde_json::json;
use wire::StoreId;
use wire::control::ChainId;
use wire::map::{Map, ReplicaState};

use crate::commands::admin::{Names, chain_name, copies, state_word};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::present;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::text::{self, size};

/// What one replica may take to send a chunk with `--check`; one that doesn't is silent.
const CHECK_PATIENCE: Duration = Duration::from_secs(5);

/// Show where a file's chunks lie: slice, nodes and stores of each chunk's copies
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena locate /photos/cat.jpg
  catena locate --check /photos/cat.jpg
  catena locate --json /photos/cat.jpg")]
pub(crate) struct Locate {
    /// The file: /VOLUME/path
    #[arg(value_name = "PATH")]
    path: OsString,
    /// Read every chunk from each copy that serves, and say whether it is there and whole
    #[arg(long)]
    check: bool,
}

/// A copy of a chunk.
struct Located {
    name: String,
    node: u32,
    store: StoreId,
    state: ReplicaState,
    /// What `--check` found: a word, and whether all is well.
    checked: Option<(String, bool)>,
}

impl Locate {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let place = RemotePath::parse(&self.path)?;
        let volume = context.volume_of(&place)?;
        let entry = context.entry(&place, true)?;
        if entry.attributes.kind != InodeKind::File {
            let kind = present::kind_word(entry.attributes.kind);
            return Err(Failure::new(
                Exit::Conflict,
                place.to_string(),
                format!("is a {kind}: only files have chunks"),
            )
            .next(format!("name a file in it: catena ls {}", place.typed())));
        }
        let checker = volume.with_deadline(CHECK_PATIENCE);
        let (mut chunks, mut bad) = (0_u64, 0_u64);
        for chunk in volume.stored_chunks(&entry) {
            let chunk = chunk.map_err(|error| failure(&place, &error))?;
            let checked = if self.check {
                checker.check_chunk(&chunk).wait().map_err(|error| failure(&place, &error))?
            } else {
                Vec::new()
            };
            // Newest after the check, so that its copies are those that were asked.
            let map =
                context.client()?.cluster_map().wait().map_err(|error| failure("the cluster", &error))?;
            let located = located(map.as_map(), &chunk, &checked);
            chunks += 1;
            bad += located
                .iter()
                .filter(|copy| copy.checked.as_ref().is_some_and(|(_, is_well)| !is_well))
                .count() as u64;
            let slice = map.slice_of(chunk.id);
            let slice = chain_name(ChainId::Slice(slice));
            context.output.result(
                || object(&chunk, &slice, &located),
                |_| line(&chunk, &slice, &located).into_bytes(),
            )?;
        }
        if chunks == 0 {
            context.output.line("no chunks: the file is empty or a hole")?;
        }
        if bad == 0 {
            return Ok(());
        }
        let reason = format!("{} missing, damaged or silent", text::count(bad, "copy"));
        Err(Failure::new(Exit::Integrity, place.to_string(), reason)
            .next("nodes mend single copies by themselves from the others; see what they wait for: catena admin why"))
    }
}

fn located(map: &Map, chunk: &StoredChunk, checked: &[CheckedReplica]) -> Vec<Located> {
    let names = Names::new(map);
    let slice = wire::slice_of(chunk.id, u32::from(map.ring_bits));
    let chain = &map.slices[usize::from(slice.0)].chain;
    copies(map, chain)
        .map(|copy| Located {
            name: names.store(copy.store),
            node: copy.node.0,
            store: copy.store,
            state: copy.state,
            checked: checked.iter().find(|found| found.store == copy.store).map(verdict),
        })
        .collect()
}

/// What a copy said, in a word or two.
fn verdict(found: &CheckedReplica) -> (String, bool) {
    match &found.result {
        Ok(None) => ("verified".to_owned(), true),
        Ok(Some(Damage::Missing)) => ("missing".to_owned(), false),
        Ok(Some(Damage::Corrupt)) => ("damaged".to_owned(), false),
        Err(error) => (format!("silent: {}", failure("", error).reason), false),
    }
}

/// `0  1.0 MiB  0.0.3:0  slice-17  node-1/shard-0 serving, verified; node-2/shard-0 offline`.
fn line(chunk: &StoredChunk, slice: &str, copies: &[Located]) -> String {
    let copies = copies.iter().map(|copy| {
        let checked = copy.checked.as_ref().map_or_else(String::new, |(word, _)| format!(", {word}"));
        format!("{} {}{checked}", copy.name, state_word(copy.state))
    });
    let copies = copies.collect::<Vec<_>>().join("; ");
    format!(
        "{:>12} {:>10}  {:<12} {slice:<11} {copies}",
        chunk.offset,
        size::human(chunk.length),
        chunk.id.to_string()
    )
}

fn object(chunk: &StoredChunk, slice: &str, copies: &[Located]) -> Object {
    let copies = copies.iter().map(|copy| {
        let mut value = json!({
            "node": copy.node,
            "name": copy.name,
            "store": copy.store.to_string(),
            "state": state_word(copy.state),
        });
        if let Some((word, _)) = &copy.checked {
            value["check"] = word.as_str().into();
        }
        value
    });
    Object::new()
        .with("offset", chunk.offset)
        .with("length", chunk.length)
        .with("chunk", chunk.id.to_string())
        .with("chunk_length", chunk.chunk_length)
        .with("slice", slice)
        .with("copies", copies.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{ChunkId, ClusterId};

    fn chunk() -> StoredChunk {
        StoredChunk {
            offset: 1 << 20,
            length: 1 << 20,
            id: ChunkId::default(),
            root: 0,
            chunk_length: 1 << 20,
            skip: 0,
            cluster: ClusterId::default(),
        }
    }

    #[test]
    fn each_copy_is_named_with_its_state() {
        let copy = |name: &str, state, checked: Option<(&str, bool)>| Located {
            name: name.to_owned(),
            node: 1,
            store: StoreId([1; 16]),
            state,
            checked: checked.map(|(word, is_well)| (word.to_owned(), is_well)),
        };
        let copies = [
            copy("node-1/shard-0", ReplicaState::Serving, Some(("verified", true))),
            copy("node-2/shard-0", ReplicaState::Offline, None),
        ];
        assert_eq!(
            line(&chunk(), "slice-17", &copies),
            "     1048576    1.0 MiB  0.0.0:0      slice-17    node-1/shard-0 serving, verified; node-2/shard-0 offline"
        );
        let object = object(&chunk(), "slice-17", &copies).line();
        assert!(object.contains(r#""slice":"slice-17","copies":[{"#), "{object}");
        assert!(object.contains(r#""check":"verified""#), "{object}");
    }

    #[test]
    fn what_a_copy_says_is_a_word() {
        for (result, word, is_well) in [
            (Ok(None), "verified", true),
            (Ok(Some(Damage::Missing)), "missing", false),
            (Ok(Some(Damage::Corrupt)), "damaged", false),
        ] {
            let found = CheckedReplica { store: StoreId([1; 16]), result };
            assert_eq!(verdict(&found), (word.to_owned(), is_well));
        }
    }
}
