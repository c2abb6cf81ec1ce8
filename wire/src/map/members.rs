//! The members of one chain, in place: a map of 65,536 chains is copied without an allocation for each.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};

use super::{Member, ReplicaState};
use crate::limits::CHAIN_MEMBERS_MAX;

/// At most [`CHAIN_MEMBERS_MAX`] members, head first.
#[derive(Clone, Copy)]
pub struct Members {
    count: u8,
    all: [Member; CHAIN_MEMBERS_MAX],
}

const NOBODY: Member = Member { store: 0, state: ReplicaState::Offline, is_seed: false };

impl Members {
    /// None.
    pub const EMPTY: Self = Self { count: 0, all: [NOBODY; CHAIN_MEMBERS_MAX] };

    /// Adds one behind the others; false: there is no room for it.
    pub fn push(&mut self, member: Member) -> bool {
        let Some(place) = self.all.get_mut(usize::from(self.count)) else { return false };
        *place = member;
        self.count += 1;
        true
    }

    /// Leaves out those that `keep` doesn't hold for.
    pub fn retain(&mut self, keep: impl Fn(&Member) -> bool) {
        *self = self.iter().copied().filter(keep).collect();
    }

    /// Takes one out.
    pub fn remove(&mut self, place: usize) -> Member {
        let removed = self[place];
        *self = self.iter().enumerate().filter(|(at, _)| *at != place).map(|(_, member)| *member).collect();
        removed
    }

    /// Leaves nobody.
    pub fn clear(&mut self) {
        *self = Self::EMPTY;
    }
}

impl Default for Members {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Deref for Members {
    type Target = [Member];

    fn deref(&self) -> &[Member] {
        &self.all[..usize::from(self.count)]
    }
}

impl DerefMut for Members {
    fn deref_mut(&mut self) -> &mut [Member] {
        &mut self.all[..usize::from(self.count)]
    }
}

/// Of no more than there is room for.
impl FromIterator<Member> for Members {
    fn from_iter<I: IntoIterator<Item = Member>>(members: I) -> Self {
        let mut all = Self::EMPTY;
        for member in members {
            assert!(all.push(member), "a chain keeps its limit");
        }
        all
    }
}

impl<'a> IntoIterator for &'a Members {
    type Item = &'a Member;
    type IntoIter = std::slice::Iter<'a, Member>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Members {}

impl Hash for Members {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(store: u16) -> Member {
        Member { store, state: ReplicaState::Serving, is_seed: true }
    }

    fn stores(members: &Members) -> Vec<u16> {
        members.iter().map(|member| member.store).collect()
    }

    #[test]
    fn members_come_and_go_in_order() {
        let mut members = Members::default();
        for store in 0..u16::try_from(CHAIN_MEMBERS_MAX).expect("few") {
            assert!(members.push(member(store)));
        }
        assert!(!members.push(member(99)), "no room");
        assert_eq!(members.remove(2), member(2));
        members.retain(|member| member.store != 5);
        assert_eq!(stores(&members), [0, 1, 3, 4, 6, 7]);
        let same: Members = [0, 1, 3, 4, 6, 7].into_iter().map(member).collect();
        assert_eq!(members, same, "what lay behind doesn't count");
        members.clear();
        assert_eq!(members, Members::EMPTY);
    }
}
