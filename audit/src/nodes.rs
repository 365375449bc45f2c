//! The hashes from which proofs are made.
//!
//! Of the tree, only the nodes over 256 leaves and more are held in memory (two hashes for 256 leaves), and the
//! leaves after the last complete 256. What lies below is read from the file, 256 hashes at a time.

use reeve_wire::merkle::{Hash, ProofError, Tree, node_hash};
use rusqlite::Connection;

/// Leaves under one node of the lowest level that is held.
const WIDTH: u64 = 256;

/// The level of that node.
const LOWEST: u32 = WIDTH.ilog2();

/// Why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NoProof {
    /// The sizes asked for do not fit.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The file cannot be read.
    #[error("the ledger's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file cannot be opened.
    #[error(transparent)]
    Database(#[from] crate::DatabaseError),
    /// The process is ending.
    #[error("the ledger is closing")]
    Closing,
}

/// The upper part of the tree over all durable leaves.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    /// Hashes of complete subtrees; the first level is [`LOWEST`].
    levels: Vec<Vec<Hash>>,
    /// The leaves after the last complete node.
    rest: Vec<Hash>,
    size: u64,
}

impl Nodes {
    /// Appends a leaf.
    pub(crate) fn append(&mut self, leaf: Hash) {
        self.rest.push(leaf);
        self.size += 1;
        if self.rest.len() as u64 == WIDTH {
            let mut tree = Tree::new();
            self.rest.drain(..).for_each(|leaf| tree.append(leaf));
            self.push(0, tree.root());
        }
    }

    fn push(&mut self, level: usize, hash: Hash) {
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        let Some(hashes) = self.levels.get_mut(level) else { return };
        hashes.push(hash);
        if let (true, [.., left, right]) = (hashes.len().is_multiple_of(2), hashes.as_slice()) {
            let above = node_hash(left, right);
            self.push(level + 1, above);
        }
    }

    /// How many leaves it has.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The hash of the complete subtree `index` of `level`, with the lowest hashes from `file`.
    pub(crate) fn node(&self, file: &Connection, level: u32, index: u64) -> Result<Hash, NoProof> {
        if let Some(held) = level.checked_sub(LOWEST) {
            let hashes = self.levels.get(held as usize);
            let at = usize::try_from(index).ok();
            let found = hashes.zip(at).and_then(|(hashes, at)| hashes.get(at));
            return found.copied().ok_or_else(|| self.missing(index << level));
        }
        let (begin, width) = (index << level, 1_u64 << level);
        let first_rest = self.size - self.rest.len() as u64;
        let leaves = match begin.checked_sub(first_rest) {
            Some(skip) => {
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                self.rest.iter().skip(skip).take(1 << level).copied().collect()
            }
            None => read_leaves(file, begin, width)?,
        };
        if leaves.len() as u64 != width {
            return Err(self.missing(begin));
        }
        let mut tree = Tree::new();
        leaves.into_iter().for_each(|leaf| tree.append(leaf));
        Ok(tree.root())
    }

    fn missing(&self, index: u64) -> NoProof {
        ProofError::NoSuchLeaf { index, size: self.size }.into()
    }
}

fn read_leaves(file: &Connection, begin: u64, width: u64) -> Result<Vec<Hash>, rusqlite::Error> {
    let mut select = file.prepare_cached("SELECT hash FROM leaf WHERE idx >= ?1 AND idx < ?2 ORDER BY idx")?;
    select.query_map([begin, begin + width], |row| row.get(0))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_wire::merkle::{consistency_proof, in_memory, inclusion_proof, leaf_hash};

    #[test]
    fn proofs_are_the_same_as_from_a_tree_held_whole() {
        let file = Connection::open_in_memory().unwrap();
        file.execute_batch("CREATE TABLE leaf (idx INTEGER PRIMARY KEY, hash BLOB) STRICT").unwrap();
        let mut nodes = Nodes::default();
        let mut leaves = Vec::new();
        for n in 0..1500_u64 {
            let leaf = leaf_hash(&n.to_be_bytes());
            file.execute("INSERT INTO leaf VALUES (?1, ?2)", (n, leaf)).unwrap();
            nodes.append(leaf);
            leaves.push(leaf);
        }
        for size in [1, 2, 255, 256, 257, 511, 512, 700, 1024, 1300, 1500_u64] {
            let whole = &leaves[..size as usize];
            for part in [0, 1, 2, 3, 100, 255, 256, 257, 512, 513, 1023, 1024, 1299].into_iter().filter(|p| *p < size) {
                let include = inclusion_proof(part, size, |level, index| nodes.node(&file, level, index)).unwrap();
                assert_eq!(include, inclusion_proof(part, size, in_memory(whole)).unwrap(), "{part} in {size}");
                let consist = consistency_proof(part, size, |level, index| nodes.node(&file, level, index)).unwrap();
                assert_eq!(consist, consistency_proof(part, size, in_memory(whole)).unwrap(), "{part} to {size}");
            }
        }
        assert!(nodes.node(&file, 0, 1500).is_err());
        assert!(nodes.node(&file, 8, 5).is_err());
        assert!(nodes.node(&file, 40, 0).is_err());
    }
}
