//! `login` and `logout`.

use reeve_wire::level::Level;
use reeve_wire::name::Name;
use reeve_wire::time::Millis;
use serde::Serialize;

use super::clock_time;
use crate::desk::Desk;
use crate::failure::Failure;
use crate::login::LoggedOut;
use crate::terminal;

#[derive(Serialize)]
struct LoggedIn<'a> {
    name: &'a Name,
    site: &'a Name,
    max_level: Level,
    until: Millis,
}

#[derive(Serialize)]
struct LogoutTold<'a> {
    name: &'a Name,
    site: &'a Name,
    ended: bool,
}

pub(crate) async fn login(desk: &mut Desk, max_level: Option<Level>, json: bool) -> Result<u8, Failure> {
    let session = desk.login(max_level).await?;
    let (name, site, until) = (&desk.config.name, &desk.config.site, session.until());
    let max_level = session.delegation().max_level;
    if json {
        terminal::answer_json(&LoggedIn { name, site, max_level, until })?;
    } else {
        terminal::answer(&format!("{name} at {site}, up to level {max_level}, until {}\n", clock_time(until)))?;
    }
    Ok(0)
}

pub(crate) async fn logout(desk: &mut Desk, json: bool) -> Result<u8, Failure> {
    let ended = desk.logout().await? == LoggedOut::Ended;
    let (name, site) = (&desk.config.name, &desk.config.site);
    if json {
        terminal::answer_json(&LogoutTold { name, site, ended })?;
    } else if ended {
        terminal::answer(&format!("{name} at {site}: logged out\n"))?;
    } else {
        terminal::answer(&format!("{name} at {site}: there was no session\n"))?;
    }
    Ok(0)
}
