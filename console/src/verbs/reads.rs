//! `whoami`, `hosts` and `why`: facts that the master gives, as a person or a script reads them.

use reeve_wire::code::Code;
use reeve_wire::message::{Answer, Ask, HostRow, Part, PartKind, Whoami, Why};
use reeve_wire::name::HostName;
use reeve_wire::output::visible_line;

use super::{clock_time, table};
use crate::desk::Desk;
use crate::failure::Failure;
use crate::operation::{ask, order};
use crate::terminal;

async fn asked(desk: &mut Desk, question: &Ask) -> Result<Answer, Failure> {
    let connection = desk.connect().await?;
    ask::answer(&connection.link, &[Part::json(PartKind::Ask, question)?]).await
}

pub(crate) async fn whoami(desk: &mut Desk, json: bool) -> Result<u8, Failure> {
    let Answer::Whoami(me) = asked(desk, &Ask::Whoami {}).await? else {
        return Err(Code::Protocol.into());
    };
    if me.site != desk.config.site {
        return Err(Failure::because(Code::WrongSite, &me.site));
    }
    if json {
        terminal::answer_json(&me)?
    } else {
        terminal::answer(&whoami_text(&me))?
    }
    Ok(0)
}

fn whoami_text(me: &Whoami) -> String {
    let until =
        me.until.map_or_else(|| "no session".to_owned(), |until| format!("session until {}", clock_time(until)));
    format!(
        "{} at {} (master {})\ncertificate: level {} at most, customers {}\ndirectory id: {}\n{until}\n",
        me.name,
        me.site,
        me.master,
        me.max_level,
        visible_line(&me.customers),
        visible_line(&me.directory_id),
    )
}

pub(crate) async fn hosts(desk: &mut Desk, selector: Option<&str>, json: bool) -> Result<u8, Failure> {
    let selector = selector.map(order::selector).transpose()?;
    let question = Ask::Hosts { selector: selector.as_ref().map(|selector| selector.as_str().to_owned()) };
    let Answer::Hosts { hosts } = asked(desk, &question).await? else {
        return Err(Code::Protocol.into());
    };
    if let Some(selector) = &selector
        && let Some(stranger) = hosts.iter().find(|row| !selector.matches(&row.host))
    {
        return Err(Failure::because(Code::Protocol, format_args!("{} was not asked for", stranger.host)));
    }
    if hosts.is_empty() {
        return nothing(selector.is_some());
    }
    if json {
        hosts.iter().try_for_each(terminal::answer_json)?;
    } else {
        terminal::answer(&hosts_text(&hosts))?;
    }
    Ok(0)
}

fn nothing(selected: bool) -> Result<u8, Failure> {
    if selected {
        return Err(Code::NothingMatched.into());
    }
    terminal::note("no server is yours; ask a security admin for the groups that you need");
    Ok(0)
}

fn hosts_text(hosts: &[HostRow]) -> String {
    let rows = hosts.iter().map(|row| {
        let agent = if row.connected { "connected" } else { "away" }.to_owned();
        let known = |text: &Option<String>| text.as_deref().map(visible_line).unwrap_or_default();
        vec![row.host.to_string(), row.level.to_string(), agent, known(&row.version), visible_line(&row.via_group)]
    });
    // Five columns fit an 80-column terminal; platform and since when are in `--json`.
    table(&["HOST", "LEVEL", "AGENT", "VERSION", "THROUGH"], rows)
}

pub(crate) async fn why(desk: &mut Desk, host: &str, item: Option<&str>, json: bool) -> Result<u8, Failure> {
    let host: HostName = host
        .parse()
        .map_err(|error: reeve_wire::name::NameError| Failure::saying(Code::SelectorInvalid, error.to_string()))?;
    let item = item.map(str::parse).transpose();
    let item = item.map_err(|error| Failure::because(Code::ItemUnknown, error))?;
    let Answer::Why(why) = asked(desk, &Ask::Why { host: host.clone(), item }).await? else {
        return Err(Code::Protocol.into());
    };
    if why.host != host {
        return Err(Failure::because(Code::Protocol, format_args!("{} was not asked for", why.host)));
    }
    if json {
        terminal::answer_json(&why)?
    } else {
        terminal::answer(&why_text(&why))?
    }
    Ok(0)
}

fn why_text(why: &Why) -> String {
    let what = why.item.as_ref().map_or_else(|| "A command line".to_owned(), |item| format!("The item {item}"));
    let verdict = match (why.allowed, why.code) {
        (true, _) => "So you may.".to_owned(),
        (false, Some(code)) => format!("So you may not: {} [{code}]", visible_line(&why.reason)),
        (false, None) => format!("So you may not: {}", visible_line(&why.reason)),
    };
    format!(
        "{what} needs level {} on {}.\nYou hold level {} there, through {}.\nYour certificate reaches level {}.\nThe \
         directory server {} said so {}.\n{verdict}\n",
        why.needs,
        why.host,
        why.held,
        visible_line(&why.via_group),
        why.ceiling,
        visible_line(&why.directory),
        age(why.directory_age_ms),
    )
}

fn age(ms: u64) -> String {
    match ms {
        0..1000 => "just now".to_owned(),
        _ => format!("{} s ago", ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_wire::level::Level;
    use reeve_wire::time::Millis;

    fn why_not() -> Why {
        Why {
            host: "contoso/db01".parse().unwrap(),
            item: Some("service-restart".parse().unwrap()),
            needs: Level::Two,
            held: Level::One,
            via_group: "contoso-db01-l1\u{1b}[2J".into(),
            ceiling: Level::Three,
            allowed: false,
            code: Some(Code::LevelTooLow),
            reason: "it needs level 2".into(),
            directory: "ldaps://one".into(),
            directory_age_ms: 3_400,
        }
    }

    #[test]
    fn why_is_told_in_sentences() {
        assert_eq!(
            why_text(&why_not()),
            "The item service-restart needs level 2 on contoso/db01.\n\
             You hold level 1 there, through contoso-db01-l1\\u{1b}[2J.\n\
             Your certificate reaches level 3.\n\
             The directory server ldaps://one said so 3 s ago.\n\
             So you may not: it needs level 2 [level-too-low]\n"
        );
        let allowed = Why { allowed: true, item: None, directory_age_ms: 3, code: None, ..why_not() };
        let text = why_text(&allowed);
        assert!(text.starts_with("A command line needs level 2"), "{text}");
        assert!(text.ends_with("said so just now.\nSo you may.\n"), "{text}");
    }

    #[test]
    fn what_an_agent_says_of_itself_cannot_touch_the_terminal() {
        let row = HostRow {
            host: "contoso/web01".parse().unwrap(),
            level: Level::Three,
            via_group: "g".into(),
            connected: true,
            since: Some(Millis(1_800_000_000_000)),
            platform: Some("linux\x1b]0;x\x07".into()),
            version: Some("0.1.0\nfake\x1b]0;x\x07row".into()),
        };
        let text = hosts_text(&[row.clone(), HostRow { connected: false, since: None, ..row }]);
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains('\x1b') && text.contains("away"), "{text}");
    }
}
