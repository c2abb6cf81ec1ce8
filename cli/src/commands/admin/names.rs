//! Names of nodes, stores and chains: as people write them, and as they are shown. Pure.
//!
//! | what | written |
//! |---|---|
//! | a node | its name, or its number |
//! | a store | `NODE/shard-0`, `NODE/metadata`, `NODE/group-3`, its id, or the id's first 4 or more hex digits |
//! | a chain | `slice-17`, `17`, `group-0` |

use wire::control::ChainId;
use wire::map::{Chain, Map, Standing, Store, Unit};
use wire::{GroupId, NodeId, SliceIndex, StoreId};

use crate::failure::{Exit, Failure, Result};
use crate::text::quote;

/// Hex digits of a store's id that are enough where they are unique.
const PREFIX_DIGITS_MIN: usize = 4;
/// Hex digits of a store's id.
const ID_DIGITS: usize = 32;
/// Hex digits by which a store that has left is told from the one that took its place.
const SHORT_DIGITS: usize = 8;
/// Ids that a failure lists.
const LISTED_MAX: usize = 4;

/// The names in one map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    map: &'a Map,
}

impl<'a> Names<'a> {
    /// The names in `map`.
    pub(crate) fn new(map: &'a Map) -> Self {
        Self { map }
    }

    /// A node's name; where the map hasn't it, its number.
    pub(crate) fn node(self, node: NodeId) -> String {
        let known = self.map.nodes.iter().find(|known| known.node == node);
        known.map_or_else(|| format!("node {node}"), |known| quote(known.name.as_bytes()))
    }

    /// Nodes' names in a row.
    pub(crate) fn nodes(self, nodes: impl IntoIterator<Item = NodeId>) -> String {
        listed(nodes.into_iter().map(|node| self.node(node)))
    }

    /// `node-1/shard-0`; where another store took that place, its id's first digits are said too.
    pub(crate) fn store(self, store: StoreId) -> String {
        let Some(record) = self.map.stores.iter().find(|known| known.store == store) else {
            return format!("store {store}");
        };
        let place = self.place(record);
        if record.standing == Standing::Member { place } else { format!("{place} ({})", short(store)) }
    }

    /// The store with this place in the map.
    pub(crate) fn store_at(self, place: u16) -> String {
        self.map
            .stores
            .get(usize::from(place))
            .map_or_else(|| format!("store number {place}"), |record| self.store(record.store))
    }

    /// The node of a store.
    pub(crate) fn node_of(self, store: StoreId) -> Option<NodeId> {
        self.map.stores.iter().find(|known| known.store == store).map(|known| known.node)
    }

    fn place(self, record: &Store) -> String {
        format!("{}/{}", self.node(record.node), unit_word(record.unit))
    }

    /// The node that `text` names.
    pub(crate) fn find_node(self, text: &str) -> Result<NodeId> {
        let named = self.map.nodes.iter().find(|node| node.name == text);
        let numbered = || {
            let number = text.parse().ok().map(NodeId)?;
            self.map.nodes.iter().find(|node| node.node == number)
        };
        named.or_else(numbered).map(|node| node.node).ok_or_else(|| {
            Failure::new(Exit::NotFound, quote(text.as_bytes()), "the cluster has no such node")
                .next("see which there are: catena admin node list")
        })
    }

    /// The store of the map that `text` names.
    pub(crate) fn find_store(self, text: &str) -> Result<StoreId> {
        if let Some((node, unit)) = text.rsplit_once('/') {
            return self.find_unit(text, node, unit);
        }
        let digits = hex(text)?;
        let stores = self.map.stores.iter().map(|store| store.store);
        let found: Vec<StoreId> = stores.filter(|store| plain(*store).starts_with(&digits)).collect();
        match found.as_slice() {
            [store] => Ok(*store),
            [] => Err(no_store(text)),
            several => {
                let ids = several.iter().take(LISTED_MAX).map(ToString::to_string);
                let reason = format!("is the beginning of several stores' ids: {}", listed(ids));
                Err(Failure::usage(quote(text.as_bytes()), reason).next("write more of its digits"))
            }
        }
    }

    /// A store that the map may not have yet: of one that it hasn't the whole id.
    pub(crate) fn find_new_store(self, text: &str) -> Result<StoreId> {
        if text.contains('/') {
            return self.find_store(text);
        }
        let digits = hex(text)?;
        if digits.len() < ID_DIGITS {
            return self.find_store(text).map_err(|failure| match failure.exit {
                Exit::NotFound => {
                    failure.next("write the whole id: it stands in the log of the node that has the store")
                }
                _ => failure,
            });
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| no_store(text))?;
        Ok(StoreId(number.to_be_bytes()))
    }

    fn find_unit(self, text: &str, node: &str, unit: &str) -> Result<StoreId> {
        let node = self.find_node(node)?;
        let is_meant = |store: &&Store| store.node == node && unit_word(store.unit) == unit;
        let all = || self.map.stores.iter().filter(is_meant);
        // Who had the place before was replaced; the last of them, where nobody has it now.
        let member = all().find(|store| store.standing == Standing::Member);
        member.or_else(|| all().next_back()).map(|store| store.store).ok_or_else(|| no_store(text))
    }

    /// The chain that `text` names.
    pub(crate) fn find_chain(self, text: &str) -> Result<ChainId> {
        let absent = || {
            let last = self.map.slices.len().saturating_sub(1);
            let groups = listed(self.map.groups.iter().map(|group| format!("group-{}", group.group)));
            let reason =
                format!("the cluster has no such chain: there are slice-0 to slice-{last}, and {groups}");
            Failure::new(Exit::NotFound, quote(text.as_bytes()), reason)
                .next("see which there are: catena admin chain list")
        };
        let id = if let Some(group) = text.strip_prefix("group-") {
            group.parse().ok().map(GroupId).map(ChainId::Group)
        } else {
            text.strip_prefix("slice-").unwrap_or(text).parse().ok().map(SliceIndex).map(ChainId::Slice)
        };
        let id = id.ok_or_else(|| {
            let reason = "is no chain; write for example slice-17 or group-0";
            Failure::usage(quote(text.as_bytes()), reason)
                .next("see which there are: catena admin chain list")
        })?;
        chain_of(self.map, id).map(|_| id).ok_or_else(absent)
    }
}

/// `slice-17`, `group-0`.
pub(crate) fn chain_name(id: ChainId) -> String {
    match id {
        ChainId::Slice(slice) => format!("slice-{slice}"),
        ChainId::Group(group) => format!("group-{group}"),
    }
}

/// The chain of this name.
pub(crate) fn chain_of(map: &Map, id: ChainId) -> Option<&Chain> {
    match id {
        ChainId::Slice(slice) => map.slices.get(usize::from(slice.0)).map(|slice| &slice.chain),
        ChainId::Group(group) => {
            map.groups.iter().find(|known| known.group == group).map(|known| &known.chain)
        }
    }
}

/// All chains, slices first.
pub(crate) fn chains(map: &Map) -> impl Iterator<Item = (ChainId, &Chain)> {
    let slices = (0_u16..=u16::MAX).zip(&map.slices);
    let slices = slices.map(|(index, slice)| (ChainId::Slice(SliceIndex(index)), &slice.chain));
    slices.chain(map.groups.iter().map(|group| (ChainId::Group(group.group), &group.chain)))
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed(words: impl IntoIterator<Item = String>) -> String {
    let mut words: Vec<String> = words.into_iter().collect();
    match words.pop() {
        None => "none".to_owned(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} and {last}", words.join(", ")),
    }
}

/// `shard-0`, `metadata` of group 0, `group-3`.
pub(crate) fn unit_word(unit: Unit) -> String {
    match unit {
        Unit::Shard(shard) => format!("shard-{shard}"),
        Unit::Group(GroupId(0)) => "metadata".to_owned(),
        Unit::Group(group) => format!("group-{group}"),
    }
}

/// The first digits of a store's id.
fn short(store: StoreId) -> String {
    plain(store).chars().take(SHORT_DIGITS).collect()
}

/// A store's id without its hyphens.
fn plain(store: StoreId) -> String {
    format!("{:032x}", u128::from_be_bytes(store.0))
}

/// The hex digits of an id or its beginning.
fn hex(text: &str) -> Result<String> {
    let digits: String = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    let fits = (PREFIX_DIGITS_MIN..=ID_DIGITS).contains(&digits.len());
    if fits && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    let reason = format!(
        "is no store; write NODE/shard-0, NODE/metadata, or {PREFIX_DIGITS_MIN} or more hex digits that its id begins with"
    );
    Err(Failure::usage(quote(text.as_bytes()), reason).next("see which there are: catena admin node list"))
}

fn no_store(text: &str) -> Failure {
    Failure::new(Exit::NotFound, quote(text.as_bytes()), "the cluster has no such store")
        .next("see which there are: catena admin node list")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;

    #[test]
    fn nodes_go_by_name_or_number() {
        let map = sample::map();
        let names = Names::new(&map);
        for (text, node) in [("node-1", 1), ("1", 1), ("3", 3), ("node-3", 3)] {
            assert_eq!(names.find_node(text).expect(text), NodeId(node));
        }
        for text in ["node-4", "4", "", "-1", "99999999999999"] {
            assert_eq!(names.find_node(text).expect_err(text).exit, Exit::NotFound, "{text}");
        }
        assert_eq!(names.node(NodeId(2)), "node-2");
        assert_eq!(names.node(NodeId(9)), "node 9");
    }

    #[test]
    fn stores_go_by_place_or_id() {
        let map = sample::map();
        let names = Names::new(&map);
        for (text, expected) in [
            ("node-1/shard-0", Ok(1)),
            ("2/shard-0", Ok(2)),
            ("node-1/metadata", Ok(11)),
            ("01010101-0101-0101-0101-010101010101", Ok(1)),
            ("0202", Ok(2)),
            ("02-02", Ok(2)),
            ("0B0B", Ok(11)),
            ("node-1/shard-7", Err(Exit::NotFound)),
            ("node-9/shard-0", Err(Exit::NotFound)),
            ("ffff", Err(Exit::NotFound)),
            ("010", Err(Exit::Usage)),
            ("shard", Err(Exit::Usage)),
            ("", Err(Exit::Usage)),
        ] {
            let found = names.find_store(text).map(|store| store.0[0]).map_err(|failure| failure.exit);
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(names.store(StoreId([2; 16])), "node-2/shard-0");
        assert_eq!(names.store(StoreId([11; 16])), "node-1/metadata");
    }

    /// Whoever took a place has its name; who had it before is told by its id.
    #[test]
    fn a_replaced_store_is_told_apart() {
        let mut map = sample::map();
        let mut old = map.stores[1].clone();
        (old.store, old.standing) = (StoreId([0x21; 16]), Standing::Forgotten);
        map.stores.insert(0, old);
        let names = Names::new(&map);
        assert_eq!(names.find_store("node-2/shard-0").expect("a store"), StoreId([2; 16]));
        assert_eq!(names.store(StoreId([0x21; 16])), "node-2/shard-0 (21212121)");
        // Two that begin alike.
        map.stores[0].store = StoreId([2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let failure = Names::new(&map).find_store("0202").expect_err("two");
        assert!(failure.exit == Exit::Usage && failure.reason.contains("02020201-"), "{failure}");
    }

    #[test]
    fn a_new_store_is_named_by_its_whole_id() {
        let map = sample::map();
        let names = Names::new(&map);
        let whole = "0102030405060708090a0b0c0d0e0f10";
        assert_eq!(
            names.find_new_store(whole).expect("an id").0,
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
        );
        let failure = names.find_new_store("01020304").expect_err("too short");
        assert!(failure.next.as_ref().is_some_and(|next| next.contains("whole id")), "{failure}");
    }

    #[test]
    fn chains_are_slices_and_groups() {
        let map = sample::map();
        let names = Names::new(&map);
        for (text, expected) in [
            ("0", Ok("slice-0")),
            ("slice-1", Ok("slice-1")),
            ("group-0", Ok("group-0")),
            ("slice-4", Err(Exit::NotFound)),
            ("group-7", Err(Exit::NotFound)),
            ("slice-", Err(Exit::Usage)),
            ("slice", Err(Exit::Usage)),
            ("70000", Err(Exit::Usage)),
        ] {
            let found = names.find_chain(text).map(chain_name).map_err(|failure| failure.exit);
            assert_eq!(found, expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn lists_read_as_sentences_do() {
        let list = |words: &[&str]| listed(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(list(&[]), "none");
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
    }
}
