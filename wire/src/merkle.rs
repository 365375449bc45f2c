//! RFC 6962 Merkle trees over SHA-256: hashes, roots, and proofs of inclusion and of consistency.
//!
//! A leaf is hashed as SHA-256(0x00 ‖ bytes) and a node as SHA-256(0x01 ‖ left ‖ right), so that neither can pass for
//! the other. Proofs are made from the hashes of *complete* subtrees: level `l`, index `i` is the subtree over the
//! `2^l` leaves from `i·2^l` on. Verifying follows RFC 9162, 2.1.3.2 and 2.1.4.2. No function here panics, whatever
//! it is given.

use sha2::{Digest as _, Sha256};

#[cfg(test)]
mod tests;

/// A SHA-256: of a leaf, of a node, or the root of a tree.
pub type Hash = [u8; 32];

/// The longest proof that any tree of `u64` leaves can have.
pub const MAX_PROOF: usize = 64;

/// Why a proof does not hold or cannot be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofError {
    /// The tree has no such leaf.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    NoSuchLeaf {
        /// The leaf asked for.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The newer tree is the smaller one.
    #[error("a tree of {new} leaves cannot extend one of {old}")]
    Shrinks {
        /// Leaves in the older tree.
        old: u64,
        /// Leaves in the newer tree.
        new: u64,
    },
    /// The proof has more or fewer hashes than a tree of this size needs.
    #[error("the proof has the wrong number of hashes for a tree of this size")]
    WrongLength,
    /// The proof does not lead to the older root.
    #[error("the proof does not lead to the older root")]
    OldRoot,
    /// The proof does not lead to the root.
    #[error("the proof does not lead to the root")]
    Root,
}

/// The hash of a leaf.
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

/// The hash of the node over `left` and `right`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// A tree that only grows, kept as the roots of its complete subtrees: at most 64 hashes, whatever its size.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    size: u64,
    /// Roots of the complete subtrees, the largest first: one for each bit that is set in `size`.
    roots: Vec<Hash>,
}

impl Tree {
    /// A tree without leaves.
    pub const fn new() -> Self {
        Self { size: 0, roots: Vec::new() }
    }

    /// How many leaves it has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends the hash of a leaf.
    pub fn append(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.roots.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The root over all leaves.
    pub fn root(&self) -> Hash {
        let mut smallest_first = self.roots.iter().rev();
        let Some(last) = smallest_first.next() else { return empty_root() };
        smallest_first.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// The root over `leaves`, given as their bytes.
pub fn root_of(leaves: &[Vec<u8>]) -> Hash {
    let mut tree = Tree::new();
    for leaf in leaves {
        tree.append(leaf_hash(leaf));
    }
    tree.root()
}

/// The proof that leaf `index` is among `leaves`, given as their bytes.
///
/// For the proofs of many leaves, hash them once and call [`inclusion_proof`] with [`in_memory`].
///
/// # Errors
///
/// [`ProofError::NoSuchLeaf`].
pub fn inclusion_path(index: u64, leaves: &[Vec<u8>]) -> Result<Vec<Hash>, ProofError> {
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    let size = hashes.len() as u64;
    inclusion_proof(index, size, in_memory(&hashes))
}

/// The hashes of the complete subtrees over `leaves`, all held in memory: what the proof makers ask for.
pub fn in_memory(leaves: &[Hash]) -> impl FnMut(u32, u64) -> Result<Hash, ProofError> {
    let mut levels = vec![leaves.to_vec()];
    while let Some(below) = levels.last().filter(|level| level.len() > 1) {
        let above = below.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
        levels.push(above);
    }
    let size = leaves.len() as u64;
    move |level, index| {
        let of_level = levels.get(level as usize);
        let at = usize::try_from(index).ok();
        let hash = of_level.zip(at).and_then(|(hashes, at)| hashes.get(at));
        hash.copied().ok_or(ProofError::NoSuchLeaf { index, size })
    }
}

/// The proof that leaf `index` is in the tree of `size` leaves: the hashes beside its way to the root, lowest first.
///
/// `node(level, index)` gives the hash of a complete subtree.
///
/// # Errors
///
/// [`ProofError::NoSuchLeaf`] when `index >= size`, and whatever `node` returns.
pub fn inclusion_proof<E: From<ProofError>>(
    index: u64,
    size: u64,
    mut node: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    if index >= size {
        return Err(ProofError::NoSuchLeaf { index, size }.into());
    }
    let (mut begin, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - begin > 1 {
        let middle = begin + left_size(end - begin);
        if index < middle {
            proof.push(range_root(middle, end, &mut node)?);
            end = middle;
        } else {
            proof.push(range_root(begin, middle, &mut node)?);
            begin = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `new` leaves begins with the tree of `old` leaves.
///
/// `node(level, index)` gives the hash of a complete subtree of the newer tree. Nothing needs to be shown when `old`
/// is 0 or equals `new`: the proof is empty.
///
/// # Errors
///
/// [`ProofError::Shrinks`] when `old > new`, and whatever `node` returns.
pub fn consistency_proof<E: From<ProofError>>(
    old: u64,
    new: u64,
    mut node: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    if old > new {
        return Err(ProofError::Shrinks { old, new }.into());
    }
    if old == 0 {
        return Ok(Vec::new());
    }
    let (mut begin, mut end) = (0, new);
    let mut proof = Vec::new();
    while end > old {
        let middle = begin + left_size(end - begin);
        if old <= middle {
            proof.push(range_root(middle, end, &mut node)?);
            end = middle;
        } else {
            proof.push(range_root(begin, middle, &mut node)?);
            begin = middle;
        }
    }
    if begin > 0 {
        proof.push(range_root(begin, end, &mut node)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that `leaf` is leaf `index` of the tree of `size` leaves with this `root`.
///
/// # Errors
///
/// Every variant but [`ProofError::Shrinks`] and [`ProofError::OldRoot`].
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::NoSuchLeaf { index, size });
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for beside in path {
        if last == 0 {
            return Err(ProofError::WrongLength);
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(beside, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, beside);
        }
        at >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::WrongLength);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that the tree of `new` leaves with `new_root` begins with the tree of `old` leaves with `old_root`.
///
/// # Errors
///
/// Every variant but [`ProofError::NoSuchLeaf`].
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: &Hash,
    new_root: &Hash,
    path: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Shrinks { old, new });
    }
    if old == 0 || old == new {
        return verify_trivial(old, new, old_root, new_root, path);
    }
    // A complete older tree is itself the first hash; the proof leaves it out.
    let (first, rest) =
        if old.is_power_of_two() { (old_root, path) } else { path.split_first().ok_or(ProofError::WrongLength)? };
    let (mut at, mut last) = (old - 1, new - 1);
    let skip = at.trailing_ones();
    at >>= skip;
    last >>= skip;
    let (mut older, mut newer) = (*first, *first);
    for beside in rest {
        if last == 0 {
            return Err(ProofError::WrongLength);
        }
        if at & 1 == 1 || at == last {
            older = node_hash(beside, &older);
            newer = node_hash(beside, &newer);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            newer = node_hash(&newer, beside);
        }
        at >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::WrongLength);
    }
    if older != *old_root {
        return Err(ProofError::OldRoot);
    }
    if newer == *new_root { Ok(()) } else { Err(ProofError::Root) }
}

/// The two cases without a proof: an empty older tree, and the same tree twice.
fn verify_trivial(old: u64, new: u64, old_root: &Hash, new_root: &Hash, path: &[Hash]) -> Result<(), ProofError> {
    if !path.is_empty() {
        return Err(ProofError::WrongLength);
    }
    if old == 0 && *old_root != empty_root() {
        return Err(ProofError::OldRoot);
    }
    if old == new && old_root != new_root {
        return Err(ProofError::Root);
    }
    Ok(())
}

/// How many of `size` leaves (at least 2) the left subtree takes: the largest power of two below `size`.
fn left_size(size: u64) -> u64 {
    1_u64.checked_shl(size.saturating_sub(1).checked_ilog2().unwrap_or(0)).unwrap_or(1)
}

/// The root over leaves `begin..end`, a range that the tree's own splitting produced.
fn range_root<E>(begin: u64, end: u64, node: &mut impl FnMut(u32, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    let mut at = begin;
    let mut roots = Vec::new();
    while at < end {
        let level = (end - at).ilog2();
        roots.push(node(level, at >> level)?);
        at += 1 << level;
    }
    let mut smallest_first = roots.into_iter().rev();
    let Some(last) = smallest_first.next() else { return Ok(empty_root()) };
    Ok(smallest_first.fold(last, |right, left| node_hash(&left, &right)))
}
