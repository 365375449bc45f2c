use super::*;

const GOOD: &str = r#"name = "journal"
version = 3
summary = "Last lines of a service's journal"
level = 1
platforms = ["linux"]
timeout = "30s"
argv = [
    "@service-manager@",
    "sh",
    "-c",
    'exec journalctl -n "$1" ${HOME}',
    "{LINES}",
    "{NAME}",
]

[[parameters]]
name = "NAME"
summary = "The service"
required = true
type = "service-name"

[[parameters]]
name = "LINES"
summary = "How many lines"
default = "50"
type = { integer = { min = 1, max = 1000 } }
"#;

/// Reads a manifest that lies in a folder of its item's name, with a script beside it.
#[expect(clippy::unwrap_in_result, reason = "the folder is the test's own; the result is what is tested")]
fn read_text(text: &str) -> Result<Package, Vec<(usize, String)>> {
    let library = tempfile::tempdir().unwrap();
    let item = library.path().join("journal");
    std::fs::create_dir(&item).unwrap();
    std::fs::write(item.join("manifest.toml"), text).unwrap();
    std::fs::write(item.join("check.sh"), "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::write(item.join("binary"), b"\xff\xfe").unwrap();
    std::fs::write(item.join("huge"), "x".repeat(MAX_PACKAGE)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", item.join("link")).unwrap();
    read(&item).map_err(|problems| problems.into_iter().map(|problem| (problem.line, problem.message)).collect())
}

#[test]
fn a_good_manifest_becomes_the_package_that_travels() {
    let package = read_text(GOOD).unwrap();
    assert_eq!((package.name.as_str(), package.version, package.level), ("journal", 3, Level::One));
    assert_eq!((package.timeout_ms, package.stdin, package.script), (30_000, Input::None, None));
    assert_eq!(package.argv.len(), 6);
    let kinds: Vec<_> = package.parameters.iter().map(|parameter| parameter.kind.clone()).collect();
    assert_eq!(kinds, [ParameterKind::ServiceName, ParameterKind::Integer { min: 1, max: 1000 }]);
    assert!(package.parameters[0].required);
    assert_eq!(package.parameters[1].default.as_deref(), Some("50"));
}

#[test]
fn a_script_and_standard_input_go_into_the_package() {
    let text = GOOD.replace("\"@service-manager@\"", "\"{script}\"");
    let package = read_text(&text.replace("argv =", "stdin = \"signed\"\nscript = \"check.sh\"\nargv =")).unwrap();
    assert_eq!(package.script.as_deref(), Some("#!/bin/sh\nexit 0\n"));
    assert_eq!(package.stdin, Input::Signed);
}

#[test]
fn every_kind_of_parameter_can_be_written() {
    for (written, kind) in [
        ("\"service-name\"", ParameterKind::ServiceName),
        ("{ integer = { min = -1, max = 50 } }", ParameterKind::Integer { min: -1, max: 50 }),
        ("{ choice = [\"50\", \"b\"] }", ParameterKind::Choice(vec!["50".to_owned(), "b".to_owned()])),
        ("{ text = { max = 4096 } }", ParameterKind::Text { max: 4096 }),
    ] {
        let package = read_text(&GOOD.replace("{ integer = { min = 1, max = 1000 } }", written)).unwrap();
        assert_eq!(package.parameters[1].kind, kind);
    }
}

/// What is replaced in the good manifest, by what, on which line the problem is, and what it says.
const BAD: &[(&str, &str, usize, &str)] = &[
    ("name = \"journal\"", "name = \"Journal\"", 1, "is not a name"),
    ("name = \"journal\"", "name = \"other\"", 1, "must lie in a folder of that name"),
    ("version = 3", "version = 0", 2, "from 1 on"),
    ("version = 3", "version = 9007199254740993", 2, "from 1 on"),
    ("version = 3", "verison = 3", 2, "unknown field `verison`"),
    ("Last lines of a service's journal", "", 3, "one line"),
    ("Last lines of a service's journal", "a\\nb", 3, "one line"),
    ("level = 1", "level = 4", 4, "no access level"),
    ("[\"linux\"]", "[\"linux\", \"plan9\"]", 5, "no agents for \"plan9\""),
    ("[\"linux\"]", "[]", 5, "runs nowhere"),
    ("\"30s\"", "\"30\"", 6, "a duration"),
    ("\"30s\"", "\"0s\"", 6, "a duration"),
    ("\"30s\"", "\"25h\"", 6, "at most 24h"),
    ("argv = [", "stdin = \"all\"\nargv = [", 7, "`all`"),
    ("\"@service-manager@\"", "\"\"", 7, "argv needs a program"),
    ("\"@service-manager@\"", "\"{NAME}\"", 8, "author's choice"),
    ("\"@service-manager@\"", "\"@package-manager@\"", 8, "no adapter @package-manager@"),
    ("\"sh\"", "\"x@service-manager@\"", 9, "element of its own"),
    ("\"sh\"", "\"--unit={NAME}\"", 9, "{NAME} must be an element of its own"),
    ("\"sh\"", "\"echo ${NAME}\"", 9, "{NAME} must be an element of its own"),
    ("\"sh\"", "\"a {TYPO} b\"", 9, "{TYPO} must be an element of its own"),
    ("\"sh\"", "\"run {script} now\"", 9, "{script} must be an element of its own"),
    ("\"sh\"", "\"{script}\"", 9, "needs `script"),
    ("\"sh\"", "\"{print $1}\"", 9, "read as a placeholder"),
    ("\"sh\"", "\"{}\"", 9, "read as a placeholder"),
    ("\"sh\"", "\"a\\u0000b\"", 9, "NUL"),
    ("    \"{LINES}\",\n", "", 22, "argv has no element \"{LINES}\""),
    ("name = \"LINES\"", "name = \"lines\"", 12, "no parameter \"LINES\""),
    ("name = \"LINES\"", "name = \"NAME\"", 23, "two parameters NAME"),
    ("default = \"50\"", "default = \"0\"", 25, "refuse this default: it must be a whole number from 1 to 1000"),
    ("default = \"50\"", "default = \"50\"\nrequired = true", 25, "never used"),
    ("default = \"50\"", "defualt = \"50\"", 25, "unknown field `defualt`"),
    ("min = 1, max = 1000", "min = 60, max = 40", 26, "min is above max"),
    ("min = 1, max = 1000", "min = 1, max = 1000, step = 2", 26, "unexpected keys in table: step"),
    ("max = 1000", "max = 9007199254740993", 26, "2^53"),
    ("{ integer = { min = 1, max = 1000 } }", "{ choice = [] }", 26, "accepts nothing"),
    ("{ integer = { min = 1, max = 1000 } }", "{ choice = [\"50\", \"50\"] }", 26, "twice"),
    ("{ integer = { min = 1, max = 1000 } }", "{ choice = [\"50\", \"\"] }", 26, "no technician can choose"),
    ("{ integer = { min = 1, max = 1000 } }", "{ text = { max = 0 } }", 26, "max of 1 to"),
    ("{ integer = { min = 1, max = 1000 } }", "{ text = { max = 4097 } }", 26, "max of 1 to"),
    ("{ integer = { min = 1, max = 1000 } }", "\"service\"", 26, "`service`"),
    ("argv = [", "script = \"../check.sh\"\nargv = [", 7, "without a path"),
    ("argv = [", "script = \"gone.sh\"\nargv = [", 7, "gone.sh: No such file"),
    ("argv = [", "script = \"link\"\nargv = [", 7, "no plain file"),
    ("argv = [", "script = \"binary\"\nargv = [", 7, "valid UTF-8"),
    ("argv = [", "script = \"check.sh\"\nargv = [", 7, "never run"),
];

#[test]
fn every_problem_is_found_on_its_line() {
    for (from, to, line, says) in BAD {
        assert!(GOOD.contains(from), "{from}");
        let problems = read_text(&GOOD.replacen(from, to, 1)).unwrap_err();
        let named = problems.iter().any(|(at, message)| at == line && message.contains(says));
        assert!(named, "{to:?} on line {line}: {says}\nfound: {problems:?}");
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("version = 3", "version = 0")
        .replace("30s", "soon")
        .replace("default = \"50\"", "default = \"-f\"");
    let lines: Vec<_> = read_text(&text).unwrap_err().into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [2, 6, 25]);
}

#[test]
fn an_item_too_large_to_travel_is_refused() {
    let text = GOOD.replace("\"@service-manager@\"", "\"{script}\"").replace("argv =", "script = \"huge\"\nargv =");
    let problems = read_text(&text).unwrap_err();
    assert!(problems[0].1.contains("the most is 262144"), "{problems:?}");
}

#[test]
fn a_folder_without_a_manifest_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let problems = read(folder.path()).unwrap_err();
    assert_eq!(problems[0].path, folder.path().join("manifest.toml"));
}

proptest::proptest! {
    /// What signing lets through never fails for its template when a technician runs it.
    #[test]
    fn a_template_that_was_signed_expands(elements in proptest::collection::vec("[{}@A-Za-z $-]{0,12}|\\{NAME\\}|@service-manager@", 1..5)) {
        let argv: Vec<_> = elements.iter().map(|element| format!("{element:?}")).collect();
        let at = GOOD.find("argv").unwrap();
        let text = format!("{}argv = [{}]\n", &GOOD[..at], argv.join(", "));
        let parameter = "[[parameters]]\nname = \"NAME\"\nsummary = \"The service\"\ndefault = \"sshd\"\ntype = \"service-name\"\n";
        let text = if elements.iter().any(|element| element == "{NAME}") { text + parameter } else { text };
        if let Ok(package) = read_text(&text) {
            let argv = package.command(&[], |adapter| (adapter == "service-manager").then(|| "systemctl".to_owned())).unwrap();
            proptest::prop_assert_eq!(argv.len(), elements.len());
            for (built, element) in argv.iter().zip(&elements) {
                let expected = match element.as_str() { "{NAME}" => "sshd", "@service-manager@" => "systemctl", other => other };
                proptest::prop_assert_eq!(built.0.as_slice(), expected.as_bytes());
            }
        }
    }
}
