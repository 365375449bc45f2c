use super::*;
use crate::bundle::{Authorities, Bundle};
use crate::keyfile::KeyLine;
use crate::sshsig;
use crate::strict::Unused;
use ssh_key::PrivateKey;

const NOW: Millis = Millis(1_800_000_000_000);

fn parameter(name: &str, kind: ParameterKind) -> Parameter {
    Parameter { name: name.to_owned(), summary: String::new(), required: false, default: None, kind }
}

fn package(parameters: Vec<Parameter>, argv: &[&str]) -> Package {
    Package {
        v: V1,
        name: "item".parse().unwrap(),
        version: 1,
        summary: "An item".to_owned(),
        level: Level::Two,
        platforms: vec!["linux".to_owned()],
        timeout_ms: 30_000,
        parameters,
        argv: argv.iter().map(|element| (*element).to_owned()).collect(),
        stdin: Input::None,
        script: None,
    }
}

fn args(given: &[(&str, &str)]) -> Vec<(String, Text)> {
    given.iter().map(|(name, value)| ((*name).to_owned(), Text::from(*value))).collect()
}

fn no_adapter(_: &str) -> Option<String> {
    None
}

fn kinds() -> [(&'static str, ParameterKind); 4] {
    [
        ("service name", ParameterKind::ServiceName),
        ("integer", ParameterKind::Integer { min: -5, max: 100 }),
        ("choice", ParameterKind::Choice(vec!["fast".to_owned(), "-slow".to_owned()])),
        ("text", ParameterKind::Text { max: 40 }),
    ]
}

/// A value, and which kinds take it: service name, integer, choice, text.
const VALUES: &[(&str, [bool; 4])] = &[
    ("nginx", [true, false, false, true]),
    ("postgresql@15-main.service", [true, false, false, true]),
    ("7", [true, true, false, true]),
    ("-5", [false, true, false, false]),
    ("100", [true, true, false, true]),
    ("101", [true, false, false, true]),
    ("-6", [false, false, false, false]),
    ("007", [true, false, false, true]),
    ("+7", [false, false, false, true]),
    ("7.0", [true, false, false, true]),
    (" 7", [false, false, false, true]),
    ("99999999999999999999", [true, false, false, true]),
    ("fast", [true, false, true, true]),
    ("-slow", [false, false, true, false]),
    ("fast,slow", [false, false, false, true]),
    ("", [false, false, false, true]),
    ("-", [false, false, false, false]),
    ("--", [false, false, false, false]),
    ("-f root", [false, false, false, false]),
    ("--help", [false, false, false, false]),
    ("-oProxyCommand=id", [false, false, false, false]),
    ("@file", [false, false, false, true]),
    ("/c", [false, false, false, true]),
    ("=", [false, false, false, true]),
    ("A=B", [false, false, false, true]),
    ("../../etc/shadow", [false, false, false, true]),
    ("nginx; reboot", [false, false, false, true]),
    ("$(reboot)", [false, false, false, true]),
    ("`reboot`", [false, false, false, true]),
    ("{NAME}", [false, false, false, true]),
    ("*", [false, false, false, true]),
    ("ü", [false, false, false, true]),
    ("a\0b", [false, false, false, false]),
    ("a\nb", [false, false, false, false]),
    ("a\rb", [false, false, false, false]),
    ("a\tb", [false, false, false, false]),
    ("\u{1b}[2J", [false, false, false, false]),
    ("a\u{7f}", [false, false, false, false]),
    ("a\u{85}b", [false, false, false, false]),
    ("nginx\n", [false, false, false, false]),
];

#[test]
fn each_kind_of_parameter_takes_what_the_table_says_and_passes_it_on_whole() {
    for (value, taken) in VALUES {
        for ((what, kind), taken) in kinds().into_iter().zip(taken) {
            let package = package(vec![parameter("NAME", kind)], &["program", "--", "{NAME}", "end"]);
            match package.command(&args(&[("NAME", value)]), no_adapter) {
                Ok(argv) => {
                    assert!(*taken, "{what} took {value:?}");
                    assert_eq!(argv, ["program", "--", value, "end"].map(Text::from), "{what} {value:?}");
                }
                Err(refusal) => {
                    assert!(!*taken, "{what} refused {value:?}: {refusal}");
                    assert_eq!(refusal.code, Code::ParameterInvalid);
                    assert!(refusal.reason.contains("NAME: "), "{refusal}");
                }
            }
        }
    }
}

#[test]
fn a_value_is_bounded_whatever_its_kind_says() {
    let endless = "x".repeat(2 * 1024 * 1024);
    let kinds = kinds().map(|(_, kind)| kind).into_iter();
    for kind in kinds.chain([ParameterKind::Text { max: u32::MAX }, ParameterKind::Choice(vec![endless.clone()])]) {
        let package = package(vec![parameter("NAME", kind.clone())], &["program", "{NAME}"]);
        let refused = package.values(&args(&[("NAME", &endless)])).unwrap_err();
        assert_eq!(refused.code, Code::ParameterInvalid);
        assert!(refused.reason.len() < 1000, "the refusal repeats the value");
    }
    let longest = |bytes: usize| {
        let package = package(vec![parameter("NAME", ParameterKind::Text { max: u32::MAX })], &["{NAME}"]);
        package.values(&args(&[("NAME", &"x".repeat(bytes))])).is_ok()
    };
    assert!(longest(MAX_VALUE) && !longest(MAX_VALUE + 1));
    let service = |bytes: usize| {
        let package = package(vec![parameter("NAME", ParameterKind::ServiceName)], &["{NAME}"]);
        package.values(&args(&[("NAME", &"x".repeat(bytes))])).is_ok()
    };
    assert!(service(128) && !service(129));
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let package = package(vec![parameter("NAME", ParameterKind::Text { max: 10 })], &["{NAME}"]);
    let refused = package.values(&[("NAME".to_owned(), Text(vec![0xff, 0xfe]))]).unwrap_err();
    assert!(refused.code == Code::ParameterInvalid && refused.reason.contains("not UTF-8"), "{refused}");
}

#[test]
fn arguments_must_be_the_items_own_and_each_once() {
    let required = Parameter { required: true, ..parameter("NAME", ParameterKind::ServiceName) };
    let package = package(vec![required, parameter("COUNT", ParameterKind::Integer { min: 1, max: 9 })], &["p"]);
    for (given, says) in [
        (&[("NAME", "a"), ("NAME", "b")][..], "NAME: it is given twice"),
        (&[("NAME", "a"), ("FORCE", "1")], "FORCE: item has no such parameter"),
        (&[("NAME", "a"), ("name", "b")], "name: item has no such parameter"),
        (&[("COUNT", "3")], "NAME: it must be given"),
        (&[], "NAME: it must be given"),
    ] {
        let refused = package.values(&args(given)).unwrap_err();
        assert_eq!(refused.code, Code::ParameterInvalid);
        assert!(refused.reason.ends_with(says), "{given:?}: {refused}");
    }
    let hostile = package.values(&args(&[("NAME", "a"), ("\u{1b}[2J\n", "1")])).unwrap_err();
    assert!(hostile.reason.contains("\\u{1b}[2J\\n: "), "{hostile}");
}

#[test]
fn what_is_not_given_is_its_default_or_left_out() {
    let lines = Parameter { default: Some("50".to_owned()), ..parameter("LINES", ParameterKind::Text { max: 5 }) };
    let since = parameter("SINCE", ParameterKind::Text { max: 20 });
    let package = package(vec![lines, since], &["tail", "-n", "{LINES}", "{SINCE}", "end"]);
    let command = |given: &[(&str, &str)]| package.command(&args(given), no_adapter).unwrap();
    assert_eq!(command(&[]), ["tail", "-n", "50", "end"].map(Text::from));
    assert_eq!(command(&[("SINCE", "today")]), ["tail", "-n", "50", "today", "end"].map(Text::from));
    assert_eq!(command(&[("LINES", "9")]), ["tail", "-n", "9", "end"].map(Text::from));
}

#[test]
fn a_default_outside_its_own_limits_is_refused_like_a_value() {
    let bad = Parameter { default: Some("--all".to_owned()), ..parameter("NAME", ParameterKind::ServiceName) };
    assert_eq!(package(vec![bad], &["p", "{NAME}"]).values(&[]).unwrap_err().code, Code::ParameterInvalid);
}

#[test]
fn a_template_is_filled_element_by_element_and_never_inside_one() {
    let adapter = |name: &str| match name {
        "service-manager" => Some("/usr/bin/systemctl".to_owned()),
        "script" => Some("/proc/self/fd/3".to_owned()),
        _ => None,
    };
    let name = || vec![parameter("NAME", ParameterKind::ServiceName)];
    let expanded = |argv: &[&str]| package(name(), argv).command(&args(&[("NAME", "nginx")]), adapter);
    for (template, command) in [
        (&["@service-manager@", "restart", "--", "{NAME}"][..], &["/usr/bin/systemctl", "restart", "--", "nginx"][..]),
        (&["/bin/sh", "{script}", "{NAME}"], &["/bin/sh", "/proc/self/fd/3", "nginx"]),
        (
            &["echo", "x{NAME}", "{NAME}x", "a {NAME} b", "x@service-manager@"],
            &["echo", "x{NAME}", "{NAME}x", "a {NAME} b", "x@service-manager@"],
        ),
        (&["{", "}", "@", "{NAME", "NAME}"], &["{", "}", "@", "{NAME", "NAME}"]),
    ] {
        let command: Vec<_> = command.iter().map(|argument| Text::from(*argument)).collect();
        assert_eq!(expanded(template).unwrap(), command, "{template:?}");
    }
    for template in
        [&["p", "{OTHER}"][..], &["p", "{name}"], &["p", "{}"], &["@@"], &["@package-manager@"], &["{{NAME}}"]]
    {
        assert_eq!(expanded(template).unwrap_err().code, Code::ItemMismatch, "{template:?}");
    }
}

#[test]
fn a_value_is_not_read_as_a_template_again() {
    let text = |name: &str| parameter(name, ParameterKind::Text { max: 40 });
    let package = package(vec![text("ONE"), text("TWO")], &["echo", "{ONE}", "{TWO}"]);
    let given = args(&[("ONE", "{TWO}"), ("TWO", "@service-manager@")]);
    let command = package.command(&given, |_| Some("replaced".to_owned())).unwrap();
    assert_eq!(command, ["echo", "{TWO}", "@service-manager@"].map(Text::from));
}

/// A site with one library signer.
struct Site {
    trust: Trust,
    signer: PrivateKey,
}

impl Site {
    fn new() -> Self {
        let [root, signer] = std::array::from_fn(|_| sshsig::generate("").unwrap());
        let bundle = Bundle {
            v: V1,
            site: "lab".parse().unwrap(),
            number: 1,
            issued: NOW,
            refresh_by: NOW.plus(crate::bundle::FRESH_FOR),
            ca: Authorities { technicians: vec![], agents: vec![], masters: vec![] },
            masters: vec![],
            logs: vec![],
            library_signers: vec![KeyLine::new(signer.public_key().key_data().clone()).unwrap()],
            release_keys: Unused,
            krl: Unused,
        };
        let signed = Signed::make(&bundle, &root).unwrap();
        let trust = Trust::open(signed, &sshsig::fingerprint(root.public_key().key_data())).unwrap();
        Self { trust, signer }
    }

    /// An index that lists these bytes as version `version` of `name`.
    fn index(&self, name: &str, version: u64, bytes: &[u8]) -> (SignedIndex, ItemRef) {
        let item = ItemRef { name: name.parse().unwrap(), version, digest: Digest::of(bytes) };
        let index = index("lab", vec![item.clone()]);
        let signed = Signed::make(&index, &self.signer).unwrap();
        (SignedIndex::open(signed, &self.trust).unwrap(), item)
    }
}

fn index(site: &str, items: Vec<ItemRef>) -> Index {
    Index { v: V1, site: site.parse().unwrap(), version: 3, issued: NOW, items }
}

fn bytes(package: &Package) -> Vec<u8> {
    serde_json::to_vec(package).unwrap()
}

#[test]
fn an_index_counts_only_from_a_signer_of_the_site_for_the_site() {
    let site = Site::new();
    let other = sshsig::generate("").unwrap();
    let open = |signed: Signed| SignedIndex::open(signed, &site.trust);
    assert_eq!(open(Signed::make(&index("lab", vec![]), &site.signer).unwrap()).unwrap().version, 3);
    assert!(open(Signed::make(&index("lab", vec![]), &other).unwrap()).is_err());
    assert!(open(Signed::make(&index("elsewhere", vec![]), &site.signer).unwrap()).is_err());

    let json = serde_json::to_vec(&index("lab", vec![])).unwrap();
    let as_request = sshsig::sign(&site.signer, Namespace::Request, &json).unwrap();
    assert!(open(Signed::from_parts(json, as_request)).is_err());
}

#[test]
fn a_package_must_be_the_one_that_the_index_names() {
    let site = Site::new();
    let good = package(vec![], &["uptime"]);
    let (index, item) = site.index("item", 1, &bytes(&good));
    assert_eq!(index.package(&item, &bytes(&good)).unwrap().argv, ["uptime"]);

    let code = |wanted: &ItemRef, bytes: &[u8]| index.package(wanted, bytes).unwrap_err().code;
    let changed = package(vec![], &["reboot"]);
    assert_eq!(code(&item, &bytes(&changed)), Code::ItemMismatch);
    assert_eq!(code(&item, b""), Code::ItemMismatch);
    let other = |change: fn(&mut ItemRef)| {
        let mut wanted = item.clone();
        change(&mut wanted);
        wanted
    };
    assert_eq!(code(&other(|item| item.name = "gone".parse().unwrap()), &bytes(&good)), Code::ItemUnknown);
    assert_eq!(code(&other(|item| item.version = 2), &bytes(&good)), Code::ItemMismatch);
    let of_changed = ItemRef { digest: Digest::of(&bytes(&changed)), ..item.clone() };
    assert_eq!(code(&of_changed, &bytes(&changed)), Code::ItemMismatch);
}

#[test]
fn a_package_that_does_not_say_what_the_index_says_is_refused_though_its_digest_holds() {
    let site = Site::new();
    let json = |change: fn(&mut serde_json::Value)| {
        let mut value = serde_json::to_value(package(vec![], &["uptime"])).unwrap();
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    };
    for (what, bytes) in [
        ("another name", json(|package| package["name"] = "other".into())),
        ("another version", json(|package| package["version"] = 2.into())),
        ("an unknown field", json(|package| package["run_as"] = "root".into())),
        ("a missing field", json(|package| drop(package.as_object_mut().unwrap().remove("script")))),
        ("an unknown format", json(|package| package["v"] = 2.into())),
        ("level 0", json(|package| package["level"] = 0.into())),
        ("too large", json(|package| package["script"] = "x".repeat(MAX_PACKAGE).into())),
        ("no JSON", b"uptime".to_vec()),
    ] {
        let (index, item) = site.index("item", 1, &bytes);
        assert_eq!(index.package(&item, &bytes).unwrap_err().code, Code::ItemMismatch, "{what}");
    }
    let unchanged = json(|_| ());
    let (index, item) = site.index("item", 1, &unchanged);
    assert!(index.package(&item, &unchanged).is_ok());
}

proptest::proptest! {
    /// Whatever a technician types, the command line has the elements that the author wrote, and no others.
    #[test]
    fn a_value_never_becomes_more_than_one_argument(value in ".{0,60}") {
        for (_, kind) in kinds() {
            let package = package(vec![parameter("NAME", kind)], &["program", "--", "{NAME}"]);
            if let Ok(argv) = package.command(&args(&[("NAME", &value)]), no_adapter) {
                proptest::prop_assert_eq!(argv, ["program", "--", value.as_str()].map(Text::from).to_vec());
            }
        }
    }
}
