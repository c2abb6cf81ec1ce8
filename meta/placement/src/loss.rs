//! The maps that follow a loss: they say since when something may be gone, so that nobody builds on it.

use wire::{MapNumber, SliceIndex, StoreId};

use crate::{ClusterMap, MapError};

impl ClusterMap {
    /// The slices of which chunks may have been lost, in order, each with the map since which they may be missing (R8).
    pub fn loss_stamps(&self) -> impl Iterator<Item = (SliceIndex, MapNumber)> + '_ {
        let stamped = (0_u16..=u16::MAX).zip(&self.as_map().slices);
        let stamped = stamped.filter(|(_, slice)| slice.loss_map_number > MapNumber(0));
        stamped.map(|(number, slice)| (SliceIndex(number), slice.loss_map_number))
    }

    /// How often an operator has accepted the loss of whatever couldn't be read: a group's generation rises for nothing else.
    pub fn accepted_losses(&self) -> u16 {
        self.as_map().groups.iter().map(|group| group.generation).max().unwrap_or(0)
    }

    /// The next map, once an operator has accepted the loss of whatever can't be read: a new generation of each group closes every session, whose ids would repeat (R20),
    /// and every slice is stamped, so that what was acked before is written again and not committed (R8).
    pub fn with_accepted_loss(&self) -> Result<Self, MapError> {
        let mut map = self.as_map().clone();
        map.number = MapNumber(map.number.0 + 1);
        for group in &mut map.groups {
            group.generation = group.generation.saturating_add(1);
        }
        for slice in &mut map.slices {
            slice.loss_map_number = map.number;
        }
        Self::new(map)
    }

    /// The next map, once these stores have found chunks that they can't read any more: their slices are stamped (R8).
    pub fn with_damaged_stores(&self, stores: &[StoreId]) -> Result<Self, MapError> {
        let mut map = self.as_map().clone();
        map.number = MapNumber(map.number.0 + 1);
        for store in stores {
            for slice in self.slices_of(*store) {
                map.slices[usize::from(slice.0)].loss_map_number = map.number;
            }
        }
        Self::new(map)
    }
}

#[cfg(test)]
mod tests {
    use wire::{ClusterId, GroupId, NodeId, ShardIndex};

    use super::*;
    use crate::{OneNode, one_node};

    fn map() -> ClusterMap {
        let store = |i: u8| {
            (StoreId([i; 16]), ShardIndex(u16::from(i)), format!("127.0.0.1:{}", 7430 + u16::from(i)))
        };
        one_node(OneNode {
            cluster: ClusterId([9; 16]),
            node: NodeId(1),
            name: "node-1".into(),
            stores: vec![store(0), store(1)],
            metadata: StoreId([0xff; 16]),
            metadata_address: "127.0.0.1:7421".into(),
            control: "127.0.0.1:7422".into(),
            ring_bits: 2,
            reclaim_delay_ms: 1000,
        })
        .unwrap()
    }

    fn stamps(map: &ClusterMap) -> Vec<u64> {
        (0..4).map(|slice| map.loss_map_number(SliceIndex(slice)).0).collect()
    }

    #[test]
    fn a_loss_closes_sessions_and_stamps_slices() {
        let first = map();
        assert_eq!(stamps(&first), [0; 4]);
        let damaged = first.with_damaged_stores(&[StoreId([1; 16])]).unwrap();
        assert_eq!((damaged.number(), stamps(&damaged)), (MapNumber(2), vec![0, 2, 0, 2]));
        let stamped: Vec<_> = damaged.loss_stamps().collect();
        assert_eq!(stamped, [(SliceIndex(1), MapNumber(2)), (SliceIndex(3), MapNumber(2))]);
        assert_eq!(damaged.group(GroupId(0)).unwrap().generation, 0);
        assert_eq!(damaged.accepted_losses(), 0, "nobody has accepted anything");
        let accepted = damaged.with_accepted_loss().unwrap();
        assert_eq!((accepted.number(), stamps(&accepted)), (MapNumber(3), vec![3; 4]));
        assert_eq!((accepted.group(GroupId(0)).unwrap().generation, accepted.accepted_losses()), (1, 1));
        let mut last = accepted.as_map().clone();
        last.groups[0].generation = 1023;
        assert!(ClusterMap::new(last).unwrap().with_accepted_loss().is_err(), "generations have 10 bits");
    }
}
