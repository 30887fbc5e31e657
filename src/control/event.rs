//! What happened, for people and programs: a ring of the last events, and a feed of new ones.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::broadcast;

use crate::config::{Changes, Names, Problem};
use crate::failover::Report;

/// Events that are kept.
pub const KEPT: usize = 1000;

/// What kind of event: one word, the same in API, log and command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A backend is no longer usable.
    Evicted,
    /// A backend is usable again.
    Reinstated,
    /// The active role of a hot-standby pool has moved: the report of it.
    Takeover,
    /// An operator drains a backend.
    Draining,
    /// An operator wants a backend back.
    Enabled,
    /// An operator has taken a backend out.
    Disabled,
    /// An operator has changed a weight.
    Weight,
    /// Another configuration is in force.
    Reloaded,
    /// A configuration was refused, and nothing has changed.
    ReloadFailed,
    /// A recovery action was run, or was not, or is known to have worked.
    Recovery,
    /// A name resolves to other addresses than before.
    Resolved,
    /// This process has taken over from another one.
    Upgraded,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::Evicted,
        Self::Reinstated,
        Self::Takeover,
        Self::Draining,
        Self::Enabled,
        Self::Disabled,
        Self::Weight,
        Self::Reloaded,
        Self::ReloadFailed,
        Self::Recovery,
        Self::Resolved,
        Self::Upgraded,
    ];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Reinstated => "reinstated",
            Self::Takeover => "takeover",
            Self::Draining => "draining",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Weight => "weight",
            Self::Reloaded => "reloaded",
            Self::ReloadFailed => "reload_failed",
            Self::Recovery => "recovery",
            Self::Resolved => "resolved",
            Self::Upgraded => "upgraded",
        }
    }
}

/// Something that happened. JSON as the API says it.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Counts up from 1 within a process.
    pub id: u64,
    /// When; in JSON as in RFC 3339, in UTC, with milliseconds.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// What kind.
    pub kind: Kind,
    /// The pool, where it is about one.
    pub pool: Option<Arc<str>>,
    /// The backend, where it is about one.
    pub backend: Option<Arc<str>>,
    /// By whom or what, in one word.
    pub cause: Arc<str>,
    /// Why, in words.
    pub evidence: Arc<str>,
    /// What the kind adds.
    #[serde(flatten)]
    pub more: More,
}

/// What a kind of event adds.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum More {
    /// Nothing.
    Nothing {},
    /// From which state to which.
    State {
        /// The state before.
        from: &'static str,
        /// The state now.
        to: &'static str,
    },
    /// The report of a takeover; its pool, cause and evidence are those of the event.
    Takeover(TakeoverMore),
    /// The new weight.
    Weight {
        /// The value.
        weight: u32,
    },
    /// What a reload has changed, as the API answers it.
    Reloaded {
        /// By listeners, pools, backends and keys of the process.
        changed: Box<Changes>,
    },
    /// Why a configuration was refused.
    Refused {
        /// Its file, where it was read.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<Arc<str>>,
        /// Each with line, column, path and message.
        problems: Vec<Problem>,
    },
    /// A run of a recovery action.
    Recovery {
        /// After what: `evict`, `reinstate`, `takeover`, `pool_down`, `pool_up`.
        event: &'static str,
        /// The command or address.
        action: Arc<str>,
        /// `success`, `failure`, `timeout`, `suppressed`, `cancelled`; `repaired` or `not repaired` once
        /// the checks have verified it.
        result: &'static str,
        /// Which attempt, from 1; 0 where there was none.
        attempt: u32,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// Which addresses came and went.
    Resolved {
        /// Those that came.
        added: Vec<Arc<str>>,
        /// Those that went.
        removed: Vec<Arc<str>>,
    },
}

/// In a line of the log.
impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing {} => Ok(()),
            Self::State { from, to } => write!(f, "{from} -> {to}"),
            Self::Weight { weight } => write!(f, "weight {weight}"),
            Self::Takeover(report) => report.fmt(f),
            Self::Recovery { event, action, result, attempt, duration_ms } => {
                write!(f, "on_{event} {result}")?;
                match attempt {
                    0 => Ok(()),
                    attempt => write!(f, " (attempt {attempt}, {duration_ms} ms): {action}"),
                }
            }
            Self::Resolved { added, removed } => {
                write!(f, "added [{}], removed [{}]", added.join(", "), removed.join(", "))
            }
            Self::Reloaded { changed } => {
                let told = [
                    ("listeners", &changed.listeners),
                    ("pools", &changed.pools),
                    ("backends", &changed.backends),
                ];
                for (what, Names { added, removed, changed }) in told {
                    let counts = (added.len(), removed.len(), changed.len());
                    write!(f, "{what} +{} -{} ~{} ", counts.0, counts.1, counts.2)?;
                }
                write!(f, "settings ~{}", changed.settings.len())
            }
            Self::Refused { problems, .. } => write!(f, "{} problems", problems.len()),
        }
    }
}

impl fmt::Display for TakeoverMore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, detection_ms, takeover_ms, retried, cut, demoting, lost } = self;
        let from = from.as_deref().unwrap_or("nobody");
        write!(f, "{from} -> {to}: detected in {detection_ms} ms, ")?;
        match takeover_ms {
            Some(ms) => write!(f, "first connection after {ms} ms, ")?,
            None => f.write_str("no connection yet, ")?,
        }
        write!(f, "{retried} retried, {cut} cut, {lost} lost")?;
        match demoting {
            0 => Ok(()),
            count => write!(f, " ({count} of those cut are yet to be closed)"),
        }
    }
}

/// A takeover report without what the event says already.
#[derive(Clone, Debug, Serialize)]
pub struct TakeoverMore {
    /// Who had the role.
    pub from: Option<String>,
    /// Who has it now.
    pub to: String,
    /// From the first sign to the decision.
    pub detection_ms: u64,
    /// From the first sign to the first connection on the new active one.
    pub takeover_ms: Option<u64>,
    /// Failed on the old, served by the new.
    pub retried: u64,
    /// Open on the old, ended by its death or the demotion, or yet to be.
    pub cut: u64,
    /// How many of those the demotion is yet to close.
    pub demoting: u64,
    /// Got no backend.
    pub lost: u64,
}

impl From<&Report> for TakeoverMore {
    fn from(report: &Report) -> Self {
        Self {
            from: report.from.clone(),
            to: report.to.clone(),
            detection_ms: report.detection_ms,
            takeover_ms: report.takeover_ms,
            retried: report.retried,
            cut: report.cut,
            demoting: report.demoting,
            lost: report.lost,
        }
    }
}

pub(super) fn rfc3339<S: serde::Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// The events of a process. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    #[expect(clippy::disallowed_types, reason = "not on the data path; held for a copy only")]
    ring: std::sync::Mutex<Ring>,
    feed: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug, Default)]
struct Ring {
    last_id: u64,
    events: VecDeque<Arc<Event>>,
}

/// What is known of an event before it has a number and a time.
#[derive(Clone, Debug)]
pub struct News {
    /// What kind.
    pub kind: Kind,
    /// The pool, where it is about one.
    pub pool: Option<Arc<str>>,
    /// The backend, where it is about one.
    pub backend: Option<Arc<str>>,
    /// By whom or what, in one word.
    pub cause: Arc<str>,
    /// Why, in words.
    pub evidence: Arc<str>,
    /// What the kind adds.
    pub more: More,
}

impl Default for Events {
    fn default() -> Self {
        let feed = broadcast::Sender::new(KEPT);
        Self(Arc::new(Inner { ring: Default::default(), feed }))
    }
}

impl Events {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Whoever panicked meanwhile has left whole events behind.
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells an event that happened at `time`: keeps it, and feeds it to whoever listens.
    pub fn tell(&self, news: News, time: SystemTime) -> Arc<Event> {
        let News { kind, pool, backend, cause, evidence, more } = news;
        let mut ring = self.ring();
        ring.last_id += 1;
        let id = ring.last_id;
        let event = Arc::new(Event { id, time, kind, pool, backend, cause, evidence, more });
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::clone(&event));
        // Nobody may be listening. Fed under the lock, so that the feed is in order.
        let _ = self.0.feed.send(Arc::clone(&event));
        event
    }

    /// Those that are kept and came after the event `after` (0: all), the oldest first.
    #[must_use]
    pub fn since(&self, after: u64) -> Vec<Arc<Event>> {
        let ring = self.ring();
        ring.events.iter().filter(|event| event.id > after).cloned().collect()
    }

    /// Those after `after`, and a feed of all that follow: none is missed or told twice. A reader
    /// that falls [`KEPT`] behind is told how many it has missed.
    #[must_use]
    pub fn follow(&self, after: u64) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let ring = self.ring();
        let kept = ring.events.iter().filter(|event| event.id > after).cloned().collect();
        (kept, self.0.feed.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(evidence: &str) -> News {
        News {
            kind: Kind::Evicted,
            pool: Some("app".into()),
            backend: Some("a".into()),
            cause: "probe".into(),
            evidence: evidence.into(),
            more: More::State { from: "healthy", to: "unhealthy" },
        }
    }

    #[test]
    fn the_last_thousand_are_kept_and_their_numbers_go_on() {
        let events = Events::default();
        for number in 1..=1005 {
            let _ = events.tell(news(&number.to_string()), SystemTime::UNIX_EPOCH);
        }
        let kept = events.since(0);
        assert_eq!((kept.len(), kept[0].id, kept[999].id), (1000, 6, 1005));
        assert_eq!(events.since(1004).len(), 1);
    }

    #[test]
    fn who_follows_gets_what_was_kept_and_then_all_that_comes() {
        let events = Events::default();
        let _ = events.tell(news("before"), SystemTime::UNIX_EPOCH);
        let (kept, mut feed) = events.follow(0);
        let _ = events.tell(news("after"), SystemTime::UNIX_EPOCH);
        assert_eq!(kept.len(), 1);
        assert_eq!(&*feed.try_recv().unwrap().evidence, "after");
        assert!(feed.try_recv().is_err());
    }

    #[test]
    fn an_event_as_json() {
        let event = Events::default().tell(news("3 checks failed"), SystemTime::UNIX_EPOCH);
        assert_eq!(
            serde_json::to_string(&*event).unwrap(),
            r#"{"id":1,"time":"1970-01-01T00:00:00.000Z","kind":"evicted","pool":"app","#
                .to_owned()
                + r#""backend":"a","cause":"probe","evidence":"3 checks failed","#
                + r#""from":"healthy","to":"unhealthy"}"#
        );
    }
}
