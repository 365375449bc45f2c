use proptest::prelude::*;

use super::*;

/// RFC 6962, 2.1, word for word: MTH(D[n]).
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [only] => *only,
        many => {
            let (left, right) = many.split_at(naive_split(many.len()));
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// RFC 6962, 2.1.1, word for word: PATH(m, D[n]).
fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let k = naive_split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, beside) =
        if index < k { (naive_path(index, left), right) } else { (naive_path(index - k, right), left) };
    path.push(naive_root(beside));
    path
}

/// RFC 6962, 2.1.2, word for word: SUBPROOF(m, D[n], b).
fn naive_subproof(m: usize, leaves: &[Hash], complete: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if complete { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let k = naive_split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, beside) =
        if m <= k { (naive_subproof(m, left, complete), right) } else { (naive_subproof(m - k, right, false), left) };
    path.push(naive_root(beside));
    path
}

fn naive_split(size: usize) -> usize {
    let mut k = 1;
    while k * 2 < size {
        k *= 2;
    }
    k
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn include(index: u64, leaves: &[Hash]) -> Vec<Hash> {
    inclusion_proof(index, leaves.len() as u64, in_memory(leaves)).unwrap()
}

fn consist(old: u64, leaves: &[Hash]) -> Vec<Hash> {
    consistency_proof(old, leaves.len() as u64, in_memory(leaves)).unwrap()
}

/// The roots that Certificate Transparency's reference implementation gives for its eight test leaves.
#[test]
fn roots_are_those_of_the_reference_implementation() {
    let data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let data: Vec<Vec<u8>> = data.iter().map(|leaf| hex::decode(leaf).unwrap()).collect();

    assert_eq!(hex::encode(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (count, root) in (1..).zip(roots) {
        assert_eq!(hex::encode(root_of(&data[..count])), root, "{count} leaves");
    }
}

#[test]
fn every_proof_of_a_small_tree_is_the_one_that_the_rfc_defines() {
    for size in 0..=70_usize {
        let leaves = leaves(size);
        let root = naive_root(&leaves);
        let mut tree = Tree::new();
        leaves.iter().for_each(|leaf| tree.append(*leaf));
        assert_eq!((tree.size(), tree.root()), (size as u64, root));

        for index in 0..size {
            let path = include(index as u64, &leaves);
            assert_eq!(path, naive_path(index, &leaves), "leaf {index} of {size}");
            verify_inclusion(&leaves[index], index as u64, size as u64, &path, &root).unwrap();
        }
        for old in 1..=size {
            let path = consist(old as u64, &leaves);
            assert_eq!(path, naive_subproof(old, &leaves, true), "{old} of {size}");
            verify_consistency(old as u64, size as u64, &naive_root(&leaves[..old]), &root, &path).unwrap();
        }
    }
}

#[test]
fn a_proof_for_one_place_fits_no_other() {
    let leaves = leaves(21);
    let root = naive_root(&leaves);
    for index in 0..21_u64 {
        let path = include(index, &leaves);
        let leaf = &leaves[index as usize];
        for other in (0..24).filter(|other| *other != index) {
            assert!(verify_inclusion(leaf, other, 21, &path, &root).is_err(), "{index} as {other}");
        }
        for at in 0..path.len() {
            let mut swapped = path.clone();
            swapped[at] = *leaf;
            assert!(verify_inclusion(leaf, index, 21, &swapped, &root).is_err(), "{index}, hash {at} replaced");
            let mut short = path.clone();
            short.remove(at);
            assert!(verify_inclusion(leaf, index, 21, &short, &root).is_err(), "{index}, hash {at} left out");
            let mut long = path.clone();
            long.insert(at, path[at]);
            assert!(verify_inclusion(leaf, index, 21, &long, &root).is_err(), "{index}, hash {at} doubled");
        }
    }
}

#[test]
fn the_edges_of_inclusion_are_refused_by_name() {
    let (leaf, root) = (leaf_hash(b"x"), leaf_hash(b"x"));

    assert_eq!(verify_inclusion(&leaf, 0, 1, &[], &root), Ok(()));
    assert_eq!(verify_inclusion(&leaf, 0, 1, &[leaf], &root), Err(ProofError::WrongLength));
    assert_eq!(verify_inclusion(&leaf, 0, 2, &[], &root), Err(ProofError::WrongLength));
    assert_eq!(verify_inclusion(&leaf, 0, 0, &[], &root), Err(ProofError::NoSuchLeaf { index: 0, size: 0 }));
    assert_eq!(verify_inclusion(&leaf, 1, 1, &[], &root), Err(ProofError::NoSuchLeaf { index: 1, size: 1 }));
    assert_eq!(verify_inclusion(&leaf, 0, 1, &[], &empty_root()), Err(ProofError::Root));
    let endless = vec![leaf; 200];
    assert_eq!(verify_inclusion(&leaf, u64::MAX - 1, u64::MAX, &endless, &root), Err(ProofError::WrongLength));
}

#[test]
fn the_edges_of_consistency_are_refused_by_name() {
    let leaves = leaves(8);
    let (root, half) = (naive_root(&leaves), naive_root(&leaves[..4]));
    let proof = consist(4, &leaves);
    let extra = [proof.clone(), vec![half]].concat();

    assert_eq!(verify_consistency(8, 8, &root, &root, &[]), Ok(()));
    assert_eq!(verify_consistency(8, 8, &root, &half, &[]), Err(ProofError::Root));
    assert_eq!(verify_consistency(8, 8, &root, &root, &[root]), Err(ProofError::WrongLength));
    assert_eq!(verify_consistency(0, 8, &empty_root(), &root, &[]), Ok(()));
    assert_eq!(verify_consistency(0, 8, &half, &root, &[]), Err(ProofError::OldRoot));
    assert_eq!(verify_consistency(0, 8, &empty_root(), &root, &[half]), Err(ProofError::WrongLength));
    assert_eq!(verify_consistency(9, 8, &root, &root, &[]), Err(ProofError::Shrinks { old: 9, new: 8 }));
    assert_eq!(verify_consistency(4, 8, &half, &root, &proof), Ok(()));
    assert_eq!(verify_consistency(4, 8, &half, &root, &[]), Err(ProofError::WrongLength));
    assert_eq!(verify_consistency(4, 8, &half, &root, &extra), Err(ProofError::WrongLength));
    assert_eq!(verify_consistency(3, 8, &half, &root, &[]), Err(ProofError::WrongLength));
    assert_eq!(verify_consistency(4, 8, &root, &root, &proof), Err(ProofError::Root));
    assert_eq!(verify_consistency(4, 8, &half, &half, &proof), Err(ProofError::Root));

    let odd = consist(5, &leaves);
    assert_eq!(verify_consistency(5, 8, &half, &root, &odd), Err(ProofError::OldRoot));
    assert_eq!(verify_consistency(5, 8, &naive_root(&leaves[..5]), &half, &odd), Err(ProofError::Root));
}

#[test]
fn a_rewritten_leaf_gives_no_consistent_history() {
    let honest = leaves(50);
    for rewritten in 0..40 {
        let mut forged = honest.clone();
        forged[rewritten] = leaf_hash(b"nothing happened");
        let proof = consist(40, &forged);
        let seen = naive_root(&honest[..40]);
        assert!(verify_consistency(40, 50, &seen, &naive_root(&forged), &proof).is_err(), "leaf {rewritten}");
    }
}

#[test]
fn a_proof_of_what_is_not_there_is_not_made() {
    let leaves = leaves(3);
    assert_eq!(
        inclusion_proof(3, 3, in_memory(&leaves)),
        Err::<Vec<Hash>, _>(ProofError::NoSuchLeaf { index: 3, size: 3 })
    );
    assert_eq!(
        consistency_proof(4, 3, in_memory(&leaves)),
        Err::<Vec<Hash>, _>(ProofError::Shrinks { old: 4, new: 3 })
    );
    assert!(inclusion_proof(0, u64::MAX, in_memory(&leaves)).is_err());
    assert!(consistency_proof(2, u64::MAX, in_memory(&leaves)).is_err());
    assert_eq!(inclusion_path(1, &[b"a".to_vec(), b"b".to_vec()]), Ok(vec![leaf_hash(b"a")]));
}

proptest! {
    #[test]
    fn large_trees_agree_with_the_naive_ones(size in 1_usize..2000, pick: prop::sample::Index, old: prop::sample::Index) {
        let leaves = leaves(size);
        let root = naive_root(&leaves);
        let (index, old) = (pick.index(size), old.index(size) + 1);

        let path = include(index as u64, &leaves);
        prop_assert_eq!(&path, &naive_path(index, &leaves));
        prop_assert!(path.len() <= MAX_PROOF);
        prop_assert_eq!(verify_inclusion(&leaves[index], index as u64, size as u64, &path, &root), Ok(()));

        let proof = consist(old as u64, &leaves);
        prop_assert_eq!(&proof, &naive_subproof(old, &leaves, true));
        prop_assert_eq!(
            verify_consistency(old as u64, size as u64, &naive_root(&leaves[..old]), &root, &proof),
            Ok(())
        );
    }

    #[test]
    fn no_input_makes_a_verifier_panic_or_accept(
        a: u64, b: u64, root: [u8; 32], old_root: [u8; 32], path: Vec<[u8; 32]>, leaf: [u8; 32],
    ) {
        prop_assert!(verify_inclusion(&leaf, a, b, &path, &root).is_err());
        if a != 0 {
            prop_assert!(verify_consistency(a, b, &old_root, &root, &path).is_err());
        }
    }

    #[test]
    fn one_flipped_bit_breaks_a_proof(size in 2_usize..300, pick: prop::sample::Index, bit: prop::sample::Index) {
        let leaves = leaves(size);
        let root = naive_root(&leaves);
        let index = pick.index(size);
        let mut path = include(index as u64, &leaves);
        let bit = bit.index(path.len() * 256);
        path[bit / 256][bit % 256 / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(
            verify_inclusion(&leaves[index], index as u64, size as u64, &path, &root),
            Err(ProofError::Root)
        );
    }
}
