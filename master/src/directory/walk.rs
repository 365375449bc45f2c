//! Nested groups, followed breadth first: all groups that hold a person, directly or through other groups.
//!
//! Every group is visited once, so that a loop ends. Past [`DEEPEST`] or [`MOST_GROUPS`] there is no answer at all:
//! a walk that was cut short could miss the group that takes a right away as well as the one that gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use reeve_wire::level::Level;
use reeve_wire::name::HostName;

use super::Right;

/// The most groups between a person and a right: the person is in the first, the first in the second, and so on.
pub(super) const DEEPEST: usize = 10;

/// The most groups that one person may be in. Every host gives one to those who hold a level on it.
pub(super) const MOST_GROUPS: usize = 20_000;

/// Where memberships are looked up.
pub(super) trait Groups {
    /// What names a person or a group.
    type Node: Clone + Ord + Send + Sync;
    /// Why a look-up gave nothing.
    type Error;

    /// All groups that hold at least one of `members` directly.
    fn holding(&self, members: &[Self::Node]) -> impl Future<Output = Result<Vec<Self::Node>, Self::Error>> + Send;
}

/// Why a walk has no result.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum WalkError<E> {
    /// There is a group more than [`DEEPEST`] levels away.
    TooDeep,
    /// There are more than [`MOST_GROUPS`] groups.
    TooMany,
    /// A look-up failed.
    Lookup(E),
}

/// All groups that hold `person`, directly or not.
///
/// # Errors
///
/// [`WalkError`] when they are nested too deep, are too many, or could not be looked up.
pub(super) async fn groups_of<G: Groups>(
    groups: &G,
    person: &G::Node,
) -> Result<BTreeSet<G::Node>, WalkError<G::Error>> {
    let mut found = BTreeSet::new();
    let mut frontier = vec![person.clone()];
    for _ in 0..=DEEPEST {
        let mut next = groups.holding(&frontier).await.map_err(WalkError::Lookup)?;
        next.retain(|group| group != person && found.insert(group.clone()));
        if found.len() > MOST_GROUPS {
            return Err(WalkError::TooMany);
        }
        if next.is_empty() {
            return Ok(found);
        }
        frontier = next;
    }
    Err(WalkError::TooDeep)
}

/// The highest level on each host, from every group that gives one. Of two groups that give the same level, the
/// first is named.
pub(super) fn highest(held: impl IntoIterator<Item = (HostName, Right)>) -> BTreeMap<HostName, Right> {
    let mut rights: BTreeMap<HostName, Right> = BTreeMap::new();
    for (host, right) in held {
        match rights.get(&host) {
            Some(known) if known.level >= right.level => {}
            _ => drop(rights.insert(host, right)),
        }
    }
    rights
}

/// The level that a group named `name` gives: `l1`, `l2` or `l3`, in either case.
pub(super) fn level_named(name: &str) -> Option<Level> {
    match name {
        "l1" | "L1" => Some(Level::One),
        "l2" | "L2" => Some(Level::Two),
        "l3" | "L3" => Some(Level::Three),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// Who is in which group, as pairs of member and group, and how often that was asked.
    #[derive(Default)]
    struct Memberships {
        pairs: BTreeSet<(u32, u32)>,
        asked: AtomicUsize,
    }

    impl Memberships {
        fn of(pairs: impl IntoIterator<Item = (u32, u32)>) -> Self {
            Self { pairs: pairs.into_iter().collect(), asked: AtomicUsize::default() }
        }
    }

    impl Groups for Memberships {
        type Node = u32;
        type Error = std::convert::Infallible;

        async fn holding(&self, members: &[u32]) -> Result<Vec<u32>, Self::Error> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Ok(self.pairs.iter().filter(|(member, _)| members.contains(member)).map(|&(_, group)| group).collect())
        }
    }

    const PERSON: u32 = 0;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    fn walk(memberships: &Memberships) -> Result<BTreeSet<u32>, WalkError<std::convert::Infallible>> {
        runtime().block_on(groups_of(memberships, &PERSON))
    }

    /// A chain of `length` groups: the person is in 1, 1 in 2, and so on.
    fn chain(length: u32) -> Memberships {
        Memberships::of((0..length).map(|n| (n, n + 1)))
    }

    #[test]
    fn the_groups_of_a_person_follow_the_table() {
        for (case, pairs, groups) in [
            ("nobody's member", vec![(7, 8)], vec![]),
            ("direct", vec![(0, 1)], vec![1]),
            ("two levels", vec![(0, 1), (1, 2)], vec![1, 2]),
            ("a diamond", vec![(0, 1), (0, 2), (1, 3), (2, 3)], vec![1, 2, 3]),
            ("a loop of two", vec![(0, 1), (1, 2), (2, 1)], vec![1, 2]),
            ("a group in itself", vec![(0, 1), (1, 1)], vec![1]),
            ("a loop through the person", vec![(0, 1), (1, 0)], vec![1]),
            ("a loop further up", vec![(0, 1), (1, 2), (2, 3), (3, 4), (4, 2)], vec![1, 2, 3, 4]),
        ] {
            assert_eq!(walk(&Memberships::of(pairs)), Ok(groups.into_iter().collect()), "{case}");
        }
    }

    #[test]
    fn ten_levels_count_and_an_eleventh_is_an_error() {
        assert_eq!(walk(&chain(10)).unwrap().len(), 10);
        assert_eq!(walk(&chain(11)), Err(WalkError::TooDeep));
    }

    #[test]
    fn too_many_groups_are_an_error() {
        let most = u32::try_from(MOST_GROUPS).unwrap();
        assert_eq!(walk(&Memberships::of((1..=most).map(|group| (0, group)))).unwrap().len(), MOST_GROUPS);
        assert_eq!(walk(&Memberships::of((1..=most + 1).map(|group| (0, group)))), Err(WalkError::TooMany));
    }

    #[test]
    fn the_highest_level_of_several_holds() {
        let host: HostName = "contoso/web01".parse().unwrap();
        let right = |level, via: &str| (host.clone(), Right { level, via_group: via.to_owned() });

        let rights = highest([right(Level::One, "a"), right(Level::Three, "b"), right(Level::Three, "c")]);

        assert_eq!(rights[&host], right(Level::Three, "b").1);
        assert!(highest([]).is_empty());
    }

    /// Groups 1 to 8; groups 6, 7 and 8 give the levels 1, 2 and 3 on one host.
    fn level(memberships: &Memberships) -> Option<Level> {
        let host: HostName = "contoso/web01".parse().unwrap();
        let held = walk(memberships).unwrap().into_iter().filter_map(|group| {
            let level = Level::try_from(u64::from(group.checked_sub(5)?)).ok()?;
            Some((host.clone(), Right { level, via_group: group.to_string() }))
        });
        highest(held).get(&host).map(|right| right.level)
    }

    proptest! {
        #[test]
        fn a_walk_ends_and_visits_at_most_each_group_once(
            pairs in prop::collection::vec((0_u32..9, 0_u32..9), 0..60)
        ) {
            let memberships = Memberships::of(pairs);

            let groups = walk(&memberships).unwrap();

            prop_assert!(!groups.contains(&PERSON));
            prop_assert!(memberships.asked.load(Ordering::SeqCst) <= groups.len() + 1);
        }

        #[test]
        fn adding_a_membership_never_lowers_a_level(
            pairs in prop::collection::vec((0_u32..9, 1_u32..9), 0..40), more in (0_u32..9, 1_u32..9)
        ) {
            let before = level(&Memberships::of(pairs.clone()));
            let after = level(&Memberships::of(pairs.into_iter().chain([more])));

            prop_assert!(after >= before, "{before:?} became {after:?}");
        }
    }
}
