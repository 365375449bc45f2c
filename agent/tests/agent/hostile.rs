//! A master that has every key of its own and the technician's genuine papers, and changes any one thing: nothing
//! runs.

use proptest::prelude::*;
use proptest::sample::Index;
use reeve_agent::handed::Handed;
use reeve_wire::grant::Grant;
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::request::{Header, TargetPath, Targets};
use reeve_wire::signed::Signed;
use reeve_wire::time::Millis;

use crate::site::{Bench, HOST, Site, key};

const NOW: Millis = Millis(1_790_000_000_000);

/// The parts of a package, by number.
const PARTS: usize = 9;

fn part(handed: &mut Handed, number: usize) -> Option<&mut Vec<u8>> {
    match number {
        0 => handed.request.as_mut(),
        1 => handed.delegation.as_mut(),
        2 => handed.certificate.as_mut(),
        3 => handed.target.as_mut(),
        4 => handed.path.as_mut(),
        5 => handed.package.as_mut(),
        6 => handed.grant.as_mut(),
        _ => handed.master.as_mut(),
    }
}

/// What a hostile master does to a good package.
#[derive(Clone, Debug)]
enum Attack {
    FlipBit(usize, Index),
    Cut(usize, Index),
    Append(usize, u8),
    Drop(usize),
    Swap(usize),
    FlipInput(Index),
    ReplaceInput(Vec<u8>),
    /// Changes what the header says, without the technician's key.
    Rewrite(Rewrite, bool),
    /// Grants something else, with the master's own key.
    Regrant(Regrant),
    Replay,
}

#[derive(Clone, Copy, Debug)]
enum Rewrite {
    Argv,
    Level,
    Item,
    Stdin,
    Timeout,
    Targets,
    Operation,
    Window,
}

#[derive(Clone, Copy, Debug)]
enum Regrant {
    Host,
    Request,
    Operation,
    Log,
    Forged,
}

fn attack() -> impl Strategy<Value = Attack> {
    let rewrite = prop_oneof![
        Just(Rewrite::Argv),
        Just(Rewrite::Level),
        Just(Rewrite::Item),
        Just(Rewrite::Stdin),
        Just(Rewrite::Timeout),
        Just(Rewrite::Targets),
        Just(Rewrite::Operation),
        Just(Rewrite::Window),
    ];
    let regrant = prop_oneof![
        Just(Regrant::Host),
        Just(Regrant::Request),
        Just(Regrant::Operation),
        Just(Regrant::Log),
        Just(Regrant::Forged),
    ];
    prop_oneof![
        8 => (0..PARTS, any::<Index>()).prop_map(|(part, at)| Attack::FlipBit(part, at)),
        2 => (0..PARTS, any::<Index>()).prop_map(|(part, at)| Attack::Cut(part, at)),
        2 => (0..PARTS, any::<u8>()).prop_map(|(part, byte)| Attack::Append(part, byte)),
        1 => (0..PARTS).prop_map(Attack::Drop),
        2 => (0..PARTS).prop_map(Attack::Swap),
        1 => any::<Index>().prop_map(Attack::FlipInput),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Attack::ReplaceInput),
        4 => (rewrite, any::<bool>()).prop_map(|(what, resign)| Attack::Rewrite(what, resign)),
        2 => regrant.prop_map(Attack::Regrant),
        1 => Just(Attack::Replay),
    ]
}

/// Whether the attack changed anything.
fn apply(attack: &Attack, site: &Site, bench: &mut Bench, handed: &mut Handed, other: &Handed) -> bool {
    let before = handed.clone();
    match attack {
        Attack::FlipBit(number, at) => {
            if let Some(bytes) = part(handed, *number).filter(|bytes| !bytes.is_empty()) {
                let bit = at.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Attack::Cut(number, at) => {
            if let Some(bytes) = part(handed, *number).filter(|bytes| !bytes.is_empty()) {
                bytes.truncate(at.index(bytes.len()));
            }
        }
        Attack::Append(number, byte) => {
            if let Some(bytes) = part(handed, *number) {
                bytes.push(*byte);
            }
        }
        Attack::Drop(number) => {
            *handed = Handed { stdin: handed.stdin.clone(), ..dropped(handed, *number) };
        }
        Attack::Swap(number) => {
            let mut other = other.clone();
            if let (Some(mine), Some(theirs)) = (part(handed, *number), part(&mut other, *number)) {
                mine.clone_from(theirs);
            }
        }
        Attack::FlipInput(at) => {
            handed.stdin = handed.stdin.take().map(|bytes| {
                let mut bytes = bytes.to_vec();
                let bit = at.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes.into()
            });
        }
        Attack::ReplaceInput(bytes) => handed.stdin = Some(bytes.clone().into()),
        Attack::Rewrite(what, resign) => rewrite(handed, *what, *resign, site),
        Attack::Regrant(what) => regrant(handed, *what, site),
        Attack::Replay => {
            bench.used.insert(handed.named().operation.unwrap());
            return true;
        }
    }
    // White space around an unsigned path changes nothing that it says.
    let path = |handed: &Handed| reeve_wire::strict::from_slice::<TargetPath>(handed.path.as_ref()?).ok();
    let same_path = path(handed).is_some() && path(handed) == path(&before);
    *handed != if same_path { Handed { path: handed.path.clone(), ..before } } else { before }
}

fn dropped(handed: &Handed, number: usize) -> Handed {
    let mut handed = handed.clone();
    let slots: [&mut Option<Vec<u8>>; 8] = [
        &mut handed.request,
        &mut handed.delegation,
        &mut handed.certificate,
        &mut handed.target,
        &mut handed.path,
        &mut handed.package,
        &mut handed.grant,
        &mut handed.master,
    ];
    if let Some(slot) = slots.into_iter().nth(number) {
        *slot = None;
    }
    handed
}

/// Says something else in the header, and keeps the technician's signature or signs with a key of the master's own;
/// the grant is made to fit.
fn rewrite(handed: &mut Handed, what: Rewrite, resign: bool, site: &Site) {
    let request = Signed::from_wire(handed.request.as_ref().unwrap()).unwrap();
    let mut header: Header = request.peek_unverified().unwrap();
    match what {
        Rewrite::Argv => header.argv = Some(vec!["/sbin/reboot".into()]),
        Rewrite::Level => header.level = reeve_wire::level::Level::One,
        Rewrite::Item => {
            let item =
                reeve_wire::request::ItemRef { name: "look".parse().unwrap(), version: 9, digest: Digest([0; 32]) };
            header.item = Some(item);
        }
        Rewrite::Stdin => {
            handed.stdin = Some(b"reboot"[..].into());
            header.stdin = Some(Digest::of(b"reboot"));
        }
        Rewrite::Timeout => header.timeout_ms += 1,
        Rewrite::Targets => {
            let hosts = ["contoso/db01", HOST, "contoso/web02", "fabrikam/mail01"].map(|host| host.parse().unwrap());
            let targets = Targets::of(hosts).unwrap();
            let (target, path) = targets.proof(1).unwrap();
            handed.target = Some(target.to_vec());
            handed.path = Some(serde_json::to_vec(&path).unwrap());
            header.targets_root = targets.root();
        }
        Rewrite::Operation => header.operation = OperationId::random(),
        Rewrite::Window => header.not_after = header.not_after.plus(std::time::Duration::from_secs(60)),
    }
    let forged = if resign {
        Signed::make(&header, &site.master).unwrap()
    } else {
        Signed::from_parts(serde_json::to_vec(&header).unwrap(), request.signature().to_vec())
    };
    let grant = Signed::from_wire(handed.grant.as_ref().unwrap()).unwrap();
    let mut grant: Grant = grant.peek_unverified().unwrap();
    grant.request = forged.digest();
    grant.operation = header.operation;
    handed.request = Some(forged.to_wire());
    handed.grant = Some(Signed::make(&grant, &site.master).unwrap().to_wire());
}

fn regrant(handed: &mut Handed, what: Regrant, site: &Site) {
    let grant = Signed::from_wire(handed.grant.as_ref().unwrap()).unwrap();
    let mut grant: Grant = grant.peek_unverified().unwrap();
    let mut signer = site.master.clone();
    match what {
        Regrant::Host => grant.host = "contoso/db01".parse().unwrap(),
        Regrant::Request => grant.request = Digest([4; 32]),
        Regrant::Operation => grant.operation = OperationId::random(),
        Regrant::Log => grant.log = "lab.reeve/hidden".into(),
        Regrant::Forged => signer = key(200),
    }
    handed.grant = Some(Signed::make(&grant, &signer).unwrap().to_wire());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_one_change_to_a_good_package_is_refused(attack in attack(), raw in any::<bool>()) {
        let site = Site::at(NOW);
        let mut bench = Bench::of(&site);
        let draft = || if raw {
            site.raw(&["/bin/echo", "hello"]).with_stdin(b"input")
        } else {
            site.item("script", &[]).with_stdin(b"echo hello")
        };
        let (mut handed, other) = (draft().handed(), draft().handed());
        prop_assert!(bench.judge(handed.clone()).is_ok());

        if apply(&attack, &site, &mut bench, &mut handed, &other) {
            prop_assert!(bench.judge(handed).is_err());
        }
    }
}

#[test]
fn every_flipped_bit_of_every_part_is_refused() {
    let site = Site::at(NOW);
    let bench = Bench::of(&site);
    let good = site.item("read", &[]).with_stdin(b"data").handed();
    for number in 0..8 {
        let length = part(&mut good.clone(), number).unwrap().len();
        // All bits of all parts are the property test's; here one bit of each byte.
        for byte in 0..length {
            let mut handed = good.clone();
            part(&mut handed, number).unwrap()[byte] ^= 1 << (byte % 8);
            assert!(bench.judge(handed).is_err(), "part {number}, byte {byte}");
        }
    }
}
