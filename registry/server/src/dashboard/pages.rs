//! The templates' data, and how a template becomes an answer.

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::assets::Assets;
use super::view::FleetPage;

/// The whole page with the list of devices.
#[derive(Template)]
#[template(path = "devices.html")]
pub(super) struct DevicesPage<'a> {
    pub(super) assets: &'a Assets,
    pub(super) fleet: FleetPage,
}

/// What of it changes: the counts and the list.
#[derive(Template)]
#[template(path = "device_list.html")]
pub(super) struct DeviceList {
    pub(super) fleet: FleetPage,
}

/// A page that says one thing and what to do about it.
#[derive(Template)]
#[template(path = "notice.html")]
pub(super) struct Notice<'a> {
    assets: &'a Assets,
    title: &'static str,
    text: &'static str,
    /// A command that helps.
    command: Option<&'static str>,
    /// Goes on to `/` by itself.
    onward: bool,
}

impl<'a> Notice<'a> {
    /// The command that prints a new one-time link.
    const LINK_COMMAND: &'static str = "orfe-registry dashboard link";

    pub(super) fn no_session(assets: &'a Assets) -> Self {
        Self {
            assets,
            title: "You need a link to get in",
            text: "This browser has no session here, or its session has ended: sessions last 12 hours and end \
                   when the registry restarts. On the registry's machine, run this and open what it prints:",
            command: Some(Self::LINK_COMMAND),
            onward: false,
        }
    }

    pub(super) fn link_spent(assets: &'a Assets) -> Self {
        Self {
            assets,
            title: "This link is no longer good",
            text: "A link lets one browser in, once, within 15 minutes. On the registry's machine, run this for \
                   a new one:",
            command: Some(Self::LINK_COMMAND),
            onward: false,
        }
    }

    pub(super) fn entered(assets: &'a Assets) -> Self {
        Self {
            assets,
            title: "Welcome",
            text: "The list of devices opens now.",
            command: None,
            onward: true,
        }
    }

    pub(super) fn misdirected(assets: &'a Assets) -> Self {
        Self {
            assets,
            title: "Wrong address",
            text: "The dashboard answers to localhost and loopback addresses with its own port only. Through a \
                   tunnel or a port forward, use the same port on both sides.",
            command: None,
            onward: false,
        }
    }

    pub(super) fn not_found(assets: &'a Assets) -> Self {
        Self {
            assets,
            title: "There is no such page",
            text: "The list of devices is the only one.",
            command: None,
            onward: false,
        }
    }
}

/// A template as text; an error is logged here, since no reader could do anything about it.
pub(super) fn render(template: &impl Template) -> Result<String, askama::Error> {
    template
        .render()
        .inspect_err(|error| tracing::error!(%error, "rendering a page of the dashboard"))
}

/// A template as an answer.
pub(super) fn respond(status: StatusCode, template: &impl Template) -> Response {
    match render(template) {
        Ok(html) => (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response(),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "The page could not be made; the log says why.\n",
        )
            .into_response(),
    }
}
