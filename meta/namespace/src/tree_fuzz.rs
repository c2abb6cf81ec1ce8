//! The tree against `BTreeMap`: random insertions, removals, ranges; frozen clones must not change.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::Tree;
use crate::random::Random;

#[test]
fn behaves_as_a_map_and_clones_stay_frozen() {
    for seed in 1..40 {
        let mut random = Random::new(seed);
        let space = [40, 400, 4000][random.below(3)];
        let mut tree = Tree::default();
        let mut model = BTreeMap::new();
        let mut frozen: Vec<(Tree<usize, u64>, BTreeMap<usize, u64>)> = Vec::new();
        for step in 0..3000 {
            let key = random.below(space);
            match random.below(10) {
                0..=4 => assert_eq!(tree.insert(key, step), model.insert(key, step)),
                5..=6 => assert_eq!(tree.remove(&key), model.remove(&key)),
                7 => {
                    if let Some(value) = tree.get_mut(&key) {
                        *value += 1;
                        *model.get_mut(&key).expect("the model has it") += 1;
                    }
                }
                8 => assert_eq!(tree.floor(&key), model.range(..=key).next_back()),
                _ => {
                    let start =
                        if random.below(2) == 0 { Bound::Included(&key) } else { Bound::Excluded(&key) };
                    let expected: Vec<_> = model.range((start, Bound::Unbounded)).take(9).collect();
                    assert_eq!(tree.range(start).take(9).collect::<Vec<_>>(), expected);
                }
            }
            assert_eq!(tree.get(&key), model.get(&key));
            assert_eq!(tree.len(), model.len());
            if step % 701 == 0 {
                frozen.push((tree.clone(), model.clone()));
            }
        }
        assert_eq!(tree.first(), model.first_key_value());
        assert_eq!(tree.last(), model.last_key_value());
        frozen.push((tree, model));
        for (tree, model) in frozen {
            assert!(tree.iter().eq(model.iter()), "seed {seed}");
        }
    }
}

#[test]
fn rows_in_order_fill_their_nodes() {
    let tree: Tree<u64, u64> = (0..100_000).map(|key| (key, key)).collect();
    assert_eq!(tree.leaf_count, 100_000 / super::NODE_ROWS_MAX);
    let mut drained = tree.clone();
    for key in 0..100_000 {
        assert_eq!(drained.remove(&key), Some(key));
    }
    assert!(drained.is_empty() && drained.root.is_none() && drained.leaf_count == 0);
    assert_eq!(tree.len(), 100_000);
}
