//! THE PAGE TABLE. Every address that shows something, and every address that takes a form; nothing else is served to people.
//!
//! The first line that matches counts, so what is literal stands before what is named. The browser test reads this table: a
//! page that it does not know fails it.

use super::ask::Ask;
use super::{
    access, audit, bundles, diff, drift, entry, instances, live, nodes, overview, people, policy, resources, retention,
    rollout_new, rollouts, settings, trust, view,
};
use crate::problem::Outcome;
use std::pin::Pin;
use warp::reply::Response;

/// `None`: no such thing after all.
type Answer<'a> = Pin<Box<dyn Future<Output = Outcome<Option<Response>>> + Send + 'a>>;
type Handler = for<'a> fn(&'a Ask, &'a [&'a str]) -> Answer<'a>;

pub struct Page {
    /// With `:names` for parameters.
    pub path: &'static str,
    /// Gets the parameters in their order.
    handler: Handler,
}

const fn page(path: &'static str, handler: Handler) -> Page {
    Page { path, handler }
}

macro_rules! shown {
    ($answer:expr) => {
        Box::pin(async move { $answer.await.map(Some) })
    };
}

#[rustfmt::skip]
pub static PAGES: &[Page] = &[
    page("/", |ask, _| shown!(overview::show(ask))),
    page("/projects", |ask, _| shown!(overview::show(ask))),
    page("/audit", |ask, _| shown!(audit::everything(ask))),
    page("/instances", |ask, _| shown!(instances::show(ask))),
    page("/people", |ask, _| shown!(people::show(ask))),
    page("/users", |ask, _| shown!(people::users(ask))),
    page("/account", |ask, _| shown!(people::account(ask))),
    page("/projects/:project", |ask, p| shown!(async { ask.redirect(&format!("/projects/{}/rollouts", view::parts::query(p[0])), None) })),
    page("/projects/:project/nodes", |ask, p| shown!(nodes::list(ask, p[0]))),
    page("/projects/:project/nodes/:id", |ask, p| shown!(nodes::show(ask, p[0], p[1]))),
    page("/projects/:project/bundles", |ask, p| shown!(bundles::list(ask, p[0]))),
    page("/projects/:project/bundles/new", |ask, p| shown!(bundles::form(ask, p[0]))),
    page("/projects/:project/bundles/:id", |ask, p| shown!(bundles::show(ask, p[0], p[1]))),
    page("/projects/:project/bundles/:id/diff", |ask, p| shown!(diff::show(ask, p[0], p[1]))),
    page("/projects/:project/rollouts", |ask, p| shown!(rollouts::list(ask, p[0]))),
    page("/projects/:project/rollouts/new", |ask, p| shown!(rollout_new::form(ask, p[0]))),
    page("/projects/:project/rollouts/:id", |ask, p| shown!(live::show(ask, p[0], p[1]))),
    page("/projects/:project/rollouts/:id/events", |ask, p| shown!(live::events(ask, p[0], p[1]))),
    page("/projects/:project/policy", |ask, p| shown!(policy::show(ask, p[0]))),
    page("/projects/:project/drift", |ask, p| shown!(drift::list(ask, p[0]))),
    page("/projects/:project/audit", |ask, p| shown!(audit::project(ask, p[0]))),
    page("/projects/:project/tokens", |ask, p| shown!(access::tokens(ask, p[0]))),
    page("/projects/:project/keys", |ask, p| shown!(access::keys(ask, p[0]))),
    page("/projects/:project/resources", |ask, p| shown!(resources::list(ask, p[0]))),
    page("/projects/:project/rules", |ask, p| shown!(resources::rules(ask, p[0]))),
    page("/projects/:project/retention", |ask, p| shown!(retention::show(ask, p[0]))),
    page("/projects/:project/trust", |ask, p| shown!(trust::show(ask, p[0]))),
    page("/projects/:project/settings", |ask, p| shown!(settings::show(ask, p[0]))),
];

#[rustfmt::skip]
pub static FORMS: &[Page] = &[
    page("/logout", |ask, _| shown!(entry::logout(ask))),
    page("/projects", |ask, _| shown!(overview::create(ask))),
    page("/orgs/:id/members", |ask, p| shown!(people::add(ask, p[0]))),
    page("/orgs/:id/members/:user/role", |ask, p| shown!(people::change(ask, p[0], p[1]))),
    page("/orgs/:id/members/:user/remove", |ask, p| shown!(people::remove(ask, p[0], p[1]))),
    page("/orgs/:id/invitations/:invitation/delete", |ask, p| shown!(people::withdraw(ask, p[0], p[1]))),
    page("/users", |ask, _| shown!(people::make_user(ask))),
    page("/users/:id/enable", |ask, p| shown!(people::set_disabled(ask, p[0], false))),
    page("/users/:id/disable", |ask, p| shown!(people::set_disabled(ask, p[0], true))),
    page("/users/:id/reset-password", |ask, p| shown!(people::reset_password(ask, p[0]))),
    page("/account", |ask, _| shown!(people::change_password(ask))),
    page("/projects/:project/nodes/:id/adopt", |ask, p| shown!(nodes::adopt(ask, p[0], p[1]))),
    page("/projects/:project/nodes/:id/revoke", |ask, p| shown!(nodes::revoke(ask, p[0], p[1]))),
    page("/projects/:project/bundles/new", |ask, p| shown!(bundles::compile(ask, p[0]))),
    page("/projects/:project/bundles/:id/revoke", |ask, p| shown!(bundles::revoke(ask, p[0], p[1]))),
    page("/projects/:project/bundles/:id/deprecate", |ask, p| shown!(bundles::deprecate(ask, p[0], p[1]))),
    page("/projects/:project/rollouts/new", |ask, p| shown!(rollout_new::submit(ask, p[0]))),
    page("/projects/:project/rollouts/:id/:command", |ask, p| Box::pin(live::command(ask, p[0], p[1], p[2]))),
    page("/projects/:project/policy/freezes", |ask, p| shown!(policy::make_freeze(ask, p[0]))),
    page("/projects/:project/policy/freezes/:id/delete", |ask, p| shown!(policy::end_freeze(ask, p[0], p[1]))),
    page("/projects/:project/policy/environments", |ask, p| shown!(policy::make_environment(ask, p[0]))),
    page("/projects/:project/policy/environments/:id/delete", |ask, p| shown!(policy::delete_environment(ask, p[0], p[1]))),
    page("/projects/:project/policy/templates", |ask, p| shown!(policy::make_template(ask, p[0]))),
    page("/projects/:project/policy/templates/:id/delete", |ask, p| shown!(policy::delete_template(ask, p[0], p[1]))),
    page("/projects/:project/drift/resolve-all", |ask, p| shown!(drift::resolve_all(ask, p[0]))),
    page("/projects/:project/drift/:id/resolve", |ask, p| shown!(drift::resolve(ask, p[0], p[1]))),
    page("/projects/:project/tokens", |ask, p| shown!(access::make_token(ask, p[0]))),
    page("/projects/:project/tokens/:id/delete", |ask, p| shown!(access::delete_token(ask, p[0], p[1]))),
    page("/projects/:project/keys", |ask, p| shown!(access::make_key(ask, p[0]))),
    page("/projects/:project/keys/:id/revoke", |ask, p| shown!(access::revoke_key(ask, p[0], p[1]))),
    page("/projects/:project/resources", |ask, p| shown!(resources::put(ask, p[0]))),
    page("/projects/:project/resources/:id/delete", |ask, p| shown!(resources::delete(ask, p[0], p[1]))),
    page("/projects/:project/rules", |ask, p| shown!(resources::save_rules(ask, p[0]))),
    page("/projects/:project/retention", |ask, p| shown!(retention::collect(ask, p[0]))),
    page("/projects/:project/retention/keep", |ask, p| shown!(retention::keep(ask, p[0]))),
    page("/projects/:project/trust", |ask, p| shown!(trust::change(ask, p[0]))),
    page("/projects/:project/trust/keys", |ask, p| shown!(trust::make_key(ask, p[0]))),
    page("/projects/:project/trust/keys/:key_id/export", |ask, p| shown!(trust::export(ask, p[0], p[1]))),
    page("/projects/:project/trust/keys/:key_id/remove", |ask, p| shown!(trust::remove(ask, p[0], p[1]))),
    page("/projects/:project/settings", |ask, p| shown!(settings::save(ask, p[0]))),
    page("/projects/:project/settings/delete", |ask, p| shown!(settings::delete(ask, p[0]))),
];

/// The line of a path, and its parameters.
fn find<'a>(table: &'static [Page], parts: &[&'a str]) -> Option<(&'static Page, Vec<&'a str>)> {
    table.iter().find_map(|line| Some((line, line.parameters(parts)?)))
}

impl Page {
    fn parameters<'a>(&self, parts: &[&'a str]) -> Option<Vec<&'a str>> {
        let names: Vec<&str> = self.path.split('/').filter(|s| !s.is_empty()).collect();
        if names.len() != parts.len() {
            return None;
        }
        let pairs = names.iter().zip(parts);
        let mut found = Vec::new();
        for (name, part) in pairs {
            match name.starts_with(':') {
                true => found.push(*part),
                false if name == part => {}
                false => return None,
            }
        }
        Some(found)
    }
}

/// May there be something? So that strangers are not sent to sign in for what does not exist.
pub fn known(parts: &[&str]) -> bool {
    find(PAGES, parts).is_some() || find(FORMS, parts).is_some()
}

/// The address as the table has it.
pub fn template(parts: &[&str], reads: bool) -> &'static str {
    find(if reads { PAGES } else { FORMS }, parts).map_or("a page", |(line, _)| line.path)
}

/// `None`: no such address.
pub async fn answer(ask: &Ask, parts: &[&str], reads: bool) -> Outcome<Option<Response>> {
    match find(if reads { PAGES } else { FORMS }, parts) {
        Some((line, parameters)) => (line.handler)(ask, &parameters).await,
        None => Ok(None),
    }
}
