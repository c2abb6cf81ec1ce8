//! An ordered map that is cheap to freeze: a B+ tree whose nodes are counted references.
//!
//! `clone` is O(1) and shares every node; a change afterwards copies the nodes on its own path (copy-on-write). So a checkpoint is a
//! clone that is walked at leisure (R15), and costs the memory of the nodes that change meanwhile.
//!
//! Nodes hold exactly as many rows as they have, rounded up by [`GROWTH`], so the fill of a node costs next to no memory: rows appended
//! in order leave nodes full, rows in random order leave them on average two thirds full, and their vectors just as long.
//!
//! Invariants: no node is empty; every leaf is at the same depth; in an inner node the key beside a child is ≤ every key in it and > every
//! key in the child before (the first child's key isn't looked at).

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// An ordered map with O(1) `clone`.
pub struct Tree<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
    leaf_count: usize,
}

enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Child<K, V>>),
}

struct Child<K, V> {
    key: K,
    node: Arc<Node<K, V>>,
}

/// What came out of an insertion below: the value that was replaced, and a new right sibling.
struct Inserted<K, V> {
    replaced: Option<V>,
    split: Option<Child<K, V>>,
}

/// Rows of a leaf and children of an inner node, at most.
const NODE_ROWS_MAX: usize = 32;
/// A node with fewer is merged with a neighbour where both fit into one.
const NODE_ROWS_MIN: usize = 10;
/// A full vector grows by this many rows.
const GROWTH: usize = 4;
/// Bytes of a leaf beside its rows: counted reference 16, vector and tag 32, its child entry's pointer 8, two allocation headers 16.
const LEAF_OVERHEAD_BYTES: usize = 72;

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0, leaf_count: 0 }
    }
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len, leaf_count: self.leaf_count }
    }
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(rows) => Self::Leaf(rows.clone()),
            Self::Inner(children) => Self::Inner(children.clone()),
        }
    }
}

impl<K: Clone, V> Clone for Child<K, V> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), node: Arc::clone(&self.node) }
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// Rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory, without what keys and values hold on the heap themselves. An estimate within a few per cent.
    pub fn memory_bytes(&self) -> usize {
        let row = size_of::<(K, V)>();
        self.len * row + self.leaf_count * (LEAF_OVERHEAD_BYTES + size_of::<K>() + row * GROWTH / 2)
    }

    /// The value at `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        let mut node = self.root.as_deref()?;
        loop {
            visit();
            match node {
                Node::Leaf(rows) => {
                    let at = rows.binary_search_by(|row| row.0.cmp(key)).ok()?;
                    return Some(&rows[at].1);
                }
                Node::Inner(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    /// Whether there is a row at `key`.
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value at `key`, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            match node {
                Node::Leaf(rows) => {
                    let at = rows.binary_search_by(|row| row.0.cmp(key)).ok()?;
                    return Some(&mut rows[at].1);
                }
                Node::Inner(children) => {
                    let at = child_of(children, key);
                    node = Arc::make_mut(&mut children[at].node);
                }
            }
        }
    }

    /// Puts a row; returns the value that it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(vec![(key, value)])));
            self.len = 1;
            self.leaf_count = 1;
            return None;
        };
        let Inserted { replaced, split } = insert_below(root, key, value, &mut self.leaf_count);
        if let Some(right) = split {
            let left = Arc::clone(root);
            let first = first_key(&left).clone();
            *root = Arc::new(Node::Inner(vec![Child { key: first, node: left }, right]));
        }
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Takes the row at `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let root = self.root.as_mut()?;
        let removed = remove_below(root, key, &mut self.leaf_count)?;
        self.len -= 1;
        loop {
            match &**root {
                Node::Leaf(rows) if rows.is_empty() => {
                    self.root = None;
                    self.leaf_count = 0;
                    break;
                }
                Node::Inner(children) if children.len() == 1 => *root = Arc::clone(&children[0].node),
                _ => break,
            }
        }
        Some(removed)
    }

    /// The first row.
    pub fn first(&self) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(rows) => return rows.first().map(|row| (&row.0, &row.1)),
                Node::Inner(children) => node = &children.first()?.node,
            }
        }
    }

    /// The last row.
    pub fn last(&self) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(rows) => return rows.last().map(|row| (&row.0, &row.1)),
                Node::Inner(children) => node = &children.last()?.node,
            }
        }
    }

    /// The last row whose key is ≤ `key`.
    pub fn floor(&self, key: &K) -> Option<(&K, &V)> {
        floor_below(self.root.as_deref()?, key)
    }

    /// Rows in order from `start` on.
    pub fn range(&self, start: Bound<&K>) -> Rows<'_, K, V> {
        let mut rows = Rows { inner: Vec::new(), leaf: [].iter() };
        let Some(mut node) = self.root.as_deref() else { return rows };
        let before = |key: &K| match start {
            Bound::Included(start) => key < start,
            Bound::Excluded(start) => key <= start,
            Bound::Unbounded => false,
        };
        loop {
            visit();
            match node {
                Node::Leaf(leaf) => {
                    rows.leaf = leaf[leaf.partition_point(|row| before(&row.0))..].iter();
                    return rows;
                }
                Node::Inner(children) => {
                    // The child before the first one that begins after `start` may hold rows of both sides.
                    let at = children.partition_point(|child| before(&child.key)).saturating_sub(1);
                    rows.inner.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
            }
        }
    }

    /// All rows in order.
    pub fn iter(&self) -> Rows<'_, K, V> {
        self.range(Bound::Unbounded)
    }
}

impl<'a, K: Ord + Clone, V: Clone> IntoIterator for &'a Tree<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Rows<'a, K, V>;

    fn into_iter(self) -> Rows<'a, K, V> {
        self.iter()
    }
}

/// Rows of a [`Tree`] in order.
pub struct Rows<'a, K, V> {
    inner: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Rows<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.leaf.next() {
                return Some((&row.0, &row.1));
            }
            let Some(child) = self.inner.last_mut()?.next() else {
                self.inner.pop();
                continue;
            };
            visit();
            let mut node = &*child.node;
            while let Node::Inner(children) = node {
                let mut rest = children.iter();
                let first = rest.next().expect("no node is empty");
                self.inner.push(rest);
                node = &first.node;
            }
            if let Node::Leaf(rows) = node {
                self.leaf = rows.iter();
            }
        }
    }
}

impl<K: Ord + Clone + PartialEq, V: Clone + PartialEq> PartialEq for Tree<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone, V: Clone + Eq> Eq for Tree<K, V> {}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Tree<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(rows: I) -> Self {
        let mut tree = Self::default();
        for (key, value) in rows {
            tree.insert(key, value);
        }
        tree
    }
}

#[cfg(test)]
thread_local! {
    /// Nodes that this test's thread has looked at: what reading costs, independent of the machine.
    pub(crate) static VISITED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
fn visit() {
    VISITED.with(|visited| visited.set(visited.get() + 1));
}

#[cfg(not(test))]
#[inline]
fn visit() {}

fn child_of<K: Ord, V>(children: &[Child<K, V>], key: &K) -> usize {
    children.partition_point(|child| child.key <= *key).saturating_sub(1)
}

fn first_key<K, V>(node: &Node<K, V>) -> &K {
    match node {
        Node::Leaf(rows) => &rows.first().expect("no node is empty").0,
        Node::Inner(children) => &children.first().expect("no node is empty").key,
    }
}

fn floor_below<'a, K: Ord, V>(node: &'a Node<K, V>, key: &K) -> Option<(&'a K, &'a V)> {
    match node {
        Node::Leaf(rows) => {
            let at = rows.partition_point(|row| row.0 <= *key).checked_sub(1)?;
            Some((&rows[at].0, &rows[at].1))
        }
        Node::Inner(children) => {
            let at = child_of(children, key);
            // Removals may have left a child whose first key is above the key beside it: then the row is the last of the child before.
            floor_below(&children[at].node, key)
                .or_else(|| floor_below(&children[at.checked_sub(1)?].node, key))
        }
    }
}

fn insert_below<K: Ord + Clone, V: Clone>(
    node: &mut Arc<Node<K, V>>,
    key: K,
    value: V,
    leaf_count: &mut usize,
) -> Inserted<K, V> {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => {
            let at = match rows.binary_search_by(|row| row.0.cmp(&key)) {
                Ok(at) => {
                    let replaced = Some(std::mem::replace(&mut rows[at].1, value));
                    return Inserted { replaced, split: None };
                }
                Err(at) => at,
            };
            let right = put(rows, at, (key, value));
            *leaf_count += usize::from(right.is_some());
            let split = right.map(|rows| Child { key: rows[0].0.clone(), node: Arc::new(Node::Leaf(rows)) });
            Inserted { replaced: None, split }
        }
        Node::Inner(children) => {
            let at = child_of(children, &key);
            if key < children[at].key {
                children[at].key = key.clone();
            }
            let below = insert_below(&mut children[at].node, key, value, leaf_count);
            let right = below.split.and_then(|child| put(children, at + 1, child));
            let split = right.map(|children| Child {
                key: children[0].key.clone(),
                node: Arc::new(Node::Inner(children)),
            });
            Inserted { replaced: below.replaced, split }
        }
    }
}

/// Inserts `item` at `at`; a full vector is split, and its right part returned. At the end of a full vector the right part is the new item
/// alone, so that rows which arrive in order fill their nodes.
fn put<T>(items: &mut Vec<T>, at: usize, item: T) -> Option<Vec<T>> {
    if items.len() < NODE_ROWS_MAX {
        if items.len() == items.capacity() {
            items.reserve_exact(GROWTH);
        }
        items.insert(at, item);
        return None;
    }
    if at == items.len() {
        return Some(vec![item]);
    }
    let mut right = items.split_off(NODE_ROWS_MAX / 2);
    items.shrink_to(NODE_ROWS_MAX / 2 + GROWTH);
    if at <= items.len() {
        items.insert(at, item);
    } else {
        right.reserve_exact(GROWTH);
        right.insert(at - items.len(), item);
    }
    Some(right)
}

fn remove_below<K: Ord + Clone, V: Clone>(
    node: &mut Arc<Node<K, V>>,
    key: &K,
    leaf_count: &mut usize,
) -> Option<V> {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => {
            let at = rows.binary_search_by(|row| row.0.cmp(key)).ok()?;
            let (_, value) = rows.remove(at);
            if rows.capacity() > rows.len() + 2 * GROWTH {
                rows.shrink_to(rows.len() + GROWTH);
            }
            Some(value)
        }
        Node::Inner(children) => {
            let at = child_of(children, key);
            let value = remove_below(&mut children[at].node, key, leaf_count)?;
            mend(children, at, leaf_count);
            Some(value)
        }
    }
}

/// Takes an empty child out, and merges a small one with a neighbour where both fit into one node.
fn mend<K: Ord + Clone, V: Clone>(children: &mut Vec<Child<K, V>>, at: usize, leaf_count: &mut usize) {
    let rows = children[at].node.rows();
    if rows == 0 {
        *leaf_count -= usize::from(children[at].node.is_leaf());
        children.remove(at);
        return;
    }
    if rows >= NODE_ROWS_MIN {
        return;
    }
    let left = if at > 0 { at - 1 } else { at };
    let Some(right) = children.get(left + 1) else { return };
    if children[left].node.rows() + right.node.rows() > NODE_ROWS_MAX * 3 / 4 {
        return;
    }
    let right = children.remove(left + 1);
    *leaf_count -= usize::from(right.node.is_leaf());
    let right = Arc::try_unwrap(right.node).unwrap_or_else(|shared| (*shared).clone());
    match (Arc::make_mut(&mut children[left].node), right) {
        (Node::Leaf(rows), Node::Leaf(more)) => {
            rows.reserve_exact(more.len());
            rows.extend(more);
        }
        (Node::Inner(rows), Node::Inner(more)) => {
            rows.reserve_exact(more.len());
            rows.extend(more);
        }
        _ => unreachable!("every leaf is at the same depth"),
    }
}

impl<K, V> Node<K, V> {
    fn rows(&self) -> usize {
        match self {
            Self::Leaf(rows) => rows.len(),
            Self::Inner(children) => children.len(),
        }
    }

    fn is_leaf(&self) -> bool {
        matches!(self, Self::Leaf(_))
    }
}

#[cfg(test)]
#[path = "tree_fuzz.rs"]
mod tree_fuzz;
