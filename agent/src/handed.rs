//! What the master hands over for one operation: a bounded number of parts, each at most once, none of them believed.

use bytes::Bytes;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::grant::Grant;
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::library::MAX_PACKAGE;
use reeve_wire::message::{Part, PartKind};
use reeve_wire::request::{Header, MAX_STDIN};
use reeve_wire::signed::{MAX_SIGNED, Signed};
use reeve_wire::time::Millis;

/// The most bytes of all parts of one operation together, with what frames them.
pub const MAX_WHOLE: usize = 2 * 1024 * 1024;

/// The largest target and the largest certificate, in bytes: several times what an honest one has.
const MAX_SMALL: usize = 16 * 1024;

/// The parts of one operation, as they came.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Handed {
    /// The signed request header.
    pub request: Option<Vec<u8>>,
    /// The session key's delegation.
    pub delegation: Option<Vec<u8>>,
    /// The technician's certificate.
    pub certificate: Option<Vec<u8>>,
    /// This server's target.
    pub target: Option<Vec<u8>>,
    /// Where the target stands in its tree.
    pub path: Option<Vec<u8>>,
    /// The library item.
    pub package: Option<Vec<u8>>,
    /// The master's signed grant.
    pub grant: Option<Vec<u8>>,
    /// The master's certificate.
    pub master: Option<Vec<u8>>,
    /// Standard input.
    pub stdin: Option<Bytes>,
}

/// What an operation says of itself before any signature was checked: for the receipt of a refusal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Named {
    /// The operation, by the request or else the grant.
    pub operation: Option<OperationId>,
    /// SHA-256 over the request.
    pub request: Option<Digest>,
    /// SHA-256 over the grant.
    pub grant: Option<Digest>,
    /// Until when the request asks to be accepted.
    pub not_after: Option<Millis>,
}

impl Handed {
    /// Adds one part; true when it was the last.
    ///
    /// # Errors
    /// [`Code::Protocol`] for a part that comes twice or does not belong here; the code of its own for one that is
    /// too large.
    pub fn add(&mut self, part: Part) -> Result<bool, Refusal> {
        let Part { kind, bytes } = part;
        let small = (MAX_SMALL, Code::RequestMalformed);
        let signed = (MAX_SIGNED + 8, Code::RequestMalformed);
        #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is does not belong here")]
        let (place, (most, code)) = match kind {
            PartKind::Go => return Ok(true),
            PartKind::Stdin => {
                within(bytes.len(), MAX_STDIN, Code::StdinMismatch)?;
                return once(&mut self.stdin, bytes.into(), kind).map(|()| false);
            }
            PartKind::Request => (&mut self.request, signed),
            PartKind::Delegation => (&mut self.delegation, signed),
            PartKind::Certificate => (&mut self.certificate, small),
            PartKind::Target => (&mut self.target, small),
            PartKind::Path => (&mut self.path, small),
            PartKind::Package => (&mut self.package, (MAX_PACKAGE, Code::ItemMismatch)),
            PartKind::Grant => (&mut self.grant, signed),
            PartKind::MasterCertificate => (&mut self.master, small),
            foreign => {
                let why = format_args!("the part {foreign:?} does not belong to an operation");
                return Err(Refusal::because(Code::Protocol, why));
            }
        };
        within(bytes.len(), most, code)?;
        once(place, bytes, kind)?;
        Ok(false)
    }

    /// What the parts say of themselves, believed by nobody.
    pub fn named(&self) -> Named {
        let signed = |bytes: &Option<Vec<u8>>| Signed::from_wire(bytes.as_ref()?).ok();
        let (request, grant) = (signed(&self.request), signed(&self.grant));
        let header = request.as_ref().and_then(|request| request.peek_unverified::<Header>().ok());
        let promised = || grant.as_ref()?.peek_unverified::<Grant>().ok();
        Named {
            operation: header.as_ref().map(|header| header.operation).or_else(|| Some(promised()?.operation)),
            request: request.as_ref().map(Signed::digest),
            grant: grant.as_ref().map(Signed::digest),
            not_after: header.map(|header| header.not_after),
        }
    }
}

fn within(size: usize, most: usize, code: Code) -> Result<(), Refusal> {
    if size <= most {
        return Ok(());
    }
    Err(Refusal::because(code, format_args!("{size} bytes; the most is {most}")))
}

fn once<T>(place: &mut Option<T>, value: T, kind: PartKind) -> Result<(), Refusal> {
    if place.is_some() {
        return Err(Refusal::because(Code::Protocol, format_args!("the part {kind:?} came twice")));
    }
    *place = Some(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_comes_twice_or_does_not_belong_is_refused() {
        let mut handed = Handed::default();
        assert_eq!(handed.add(Part::new(PartKind::Target, b"x")), Ok(false));
        assert_eq!(handed.add(Part::new(PartKind::Target, b"x")).unwrap_err().code, Code::Protocol);
        assert_eq!(handed.add(Part::new(PartKind::Stdin, b"x")), Ok(false));
        assert_eq!(handed.add(Part::new(PartKind::Stdin, b"x")).unwrap_err().code, Code::Protocol);
        for foreign in [PartKind::Ask, PartKind::Bundle, PartKind::Receipt, PartKind::Cancel, PartKind::Query] {
            assert_eq!(handed.add(Part::new(foreign, b"{}")).unwrap_err().code, Code::Protocol, "{foreign:?}");
        }
        assert_eq!(handed.add(Part::new(PartKind::Go, [])), Ok(true));
    }

    #[test]
    fn each_part_has_its_own_limit() {
        let add = |kind, size| Handed::default().add(Part::new(kind, vec![0; size])).map_err(|refusal| refusal.code);

        assert_eq!(add(PartKind::Stdin, MAX_STDIN), Ok(false));
        assert_eq!(add(PartKind::Stdin, MAX_STDIN + 1), Err(Code::StdinMismatch));
        assert_eq!(add(PartKind::Package, MAX_PACKAGE), Ok(false));
        assert_eq!(add(PartKind::Package, MAX_PACKAGE + 1), Err(Code::ItemMismatch));
        assert_eq!(add(PartKind::Request, MAX_SIGNED + 9), Err(Code::RequestMalformed));
        assert_eq!(add(PartKind::Target, MAX_SMALL + 1), Err(Code::RequestMalformed));
    }

    #[test]
    fn all_parts_at_their_largest_fit_into_the_whole() {
        let all = MAX_STDIN + MAX_PACKAGE + 3 * (MAX_SIGNED + 8) + 4 * MAX_SMALL + 10 * 5;

        assert!(all <= MAX_WHOLE, "{all}");
    }

    #[test]
    fn what_cannot_be_read_names_nothing() {
        let handed = Handed { request: Some(b"junk".to_vec()), grant: Some(vec![0; 8]), ..Handed::default() };

        assert_eq!(handed.named().operation, None);
        assert_eq!(handed.named().request, None);
        assert_eq!(handed.named().grant, Some(Digest::of(b"")));
    }
}
