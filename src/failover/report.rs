//! The report of one takeover, put together from what is seen of it.

use serde::Serialize;

use super::{Cause, Tick};

/// What one takeover looked like. JSON as the API and the event say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The pool.
    pub pool: String,
    /// The backend that had the role; `None`: nobody since the process started.
    pub from: Option<String>,
    /// The backend that has it now.
    pub to: String,
    /// Why, in one word.
    pub cause: &'static str,
    /// What was detected, in words.
    pub evidence: String,
    /// Milliseconds from the first failed connection or check to the decision; 0 where nothing
    /// failed.
    pub detection_ms: u64,
    /// Milliseconds from the first failed connection or check, or the decision where nothing failed,
    /// to the first connection on the new active one; `None`: there was none yet.
    pub takeover_ms: Option<u64>,
    /// Connections that failed on the old one and were served by the new one.
    pub retried: u64,
    /// Connections open on the old one that ended by its death or the demotion, or are yet to.
    pub cut: u64,
    /// How many of those the demotion is yet to end.
    pub demoting: u64,
    /// Connections that got no backend.
    pub lost: u64,
}

/// A report in the making. Fed with what happens, it does nothing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    report: Report,
    first_sign: Tick,
    decided: Tick,
    /// When the first connection was established.
    served: Option<Tick>,
}

impl Assembly {
    /// Begins the report of a takeover decided `at` this time, after a `first_sign` of trouble
    /// (of the change that evicted, or an earlier failed connection), if any.
    #[must_use]
    pub fn new(takeover: Takeover<'_>, first_sign: Option<Tick>, at: Tick) -> Self {
        let first_sign = first_sign.map_or(at, |sign| sign.min(at));
        let report = Report {
            pool: takeover.pool.into(),
            from: takeover.from.map(Into::into),
            to: takeover.to.into(),
            cause: takeover.cause.as_str(),
            evidence: takeover.evidence.into(),
            detection_ms: at - first_sign,
            takeover_ms: None,
            retried: 0,
            cut: 0,
            demoting: 0,
            lost: 0,
        };
        Self { report, first_sign, decided: at, served: None }
    }

    /// A connection was established on the new active one `at` this time; the first one counts.
    pub fn connected(&mut self, at: Tick) {
        let since = at.saturating_sub(self.first_sign);
        self.report.takeover_ms.get_or_insert(since);
        self.served.get_or_insert(at);
    }

    /// So many connections failed on the old one and were served by the new one.
    pub fn add_retried(&mut self, count: u64) {
        self.report.retried = self.report.retried.saturating_add(count);
    }

    /// So many connections open on the old one ended by its death or the demotion.
    pub fn add_cut(&mut self, count: u64) {
        self.report.cut = self.report.cut.saturating_add(count);
    }

    /// So many connections open on the old one are yet to be ended by the demotion.
    pub fn add_demoting(&mut self, count: u64) {
        self.report.demoting = self.report.demoting.saturating_add(count);
        self.add_cut(count);
    }

    /// So many connections got no backend.
    pub fn add_lost(&mut self, count: u64) {
        self.report.lost = self.report.lost.saturating_add(count);
    }

    /// When the takeover was decided.
    #[must_use]
    pub fn decided(&self) -> Tick {
        self.decided
    }

    /// Whether the report can be told: the new active one has had a connection for `settle`
    /// milliseconds, in which those that the takeover met find their ends, or `patience` milliseconds
    /// have passed without one.
    #[must_use]
    pub fn is_complete(&self, at: Tick, settle: Tick, patience: Tick) -> bool {
        let is_settled = |since: Tick| at.saturating_sub(since) >= settle;
        let has_waited = at.saturating_sub(self.decided) >= patience;
        match self.served {
            Some(served) => is_settled(served.max(self.decided)),
            None => has_waited,
        }
    }

    /// What is known so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }
}

/// Which takeover it is, by names.
#[derive(Clone, Copy, Debug)]
pub struct Takeover<'a> {
    /// The pool.
    pub pool: &'a str,
    /// The backend that had the role.
    pub from: Option<&'a str>,
    /// The backend that has it now.
    pub to: &'a str,
    /// Why.
    pub cause: Cause,
    /// What was detected, in words.
    pub evidence: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takeover(cause: Cause) -> Takeover<'static> {
        let evidence = "3 connections failed in a row: refused";
        Takeover { pool: "app", from: Some("a"), to: "b", cause, evidence }
    }

    #[test]
    fn times_count_from_the_first_sign_to_the_first_connection() {
        let mut assembly = Assembly::new(takeover(Cause::Outlier), Some(1000), 1004);
        assembly.add_retried(2);
        assembly.connected(1006);
        assembly.connected(2000);
        assembly.add_cut(200);
        assembly.add_demoting(300);
        assembly.add_lost(1);
        let json = serde_json::to_string(assembly.report()).unwrap();
        assert_eq!(
            json,
            r#"{"pool":"app","from":"a","to":"b","cause":"outlier","#.to_owned()
                + r#""evidence":"3 connections failed in a row: refused","#
                + r#""detection_ms":4,"takeover_ms":6,"retried":2,"cut":500,"demoting":300,"lost":1}"#
        );
    }

    #[test]
    fn where_nothing_failed_times_count_from_the_decision() {
        let mut assembly = Assembly::new(takeover(Cause::Failback), None, 1000);
        assert_eq!((assembly.report().detection_ms, assembly.report().takeover_ms), (0, None));
        assembly.connected(1003);
        assert_eq!(assembly.report().takeover_ms, Some(3));
        assert_eq!(assembly.report().cause, "failback");
    }

    #[test]
    fn a_report_is_complete_soon_after_the_first_connection_or_when_nobody_comes() {
        let mut assembly = Assembly::new(takeover(Cause::Probe), Some(0), 1000);
        let complete = |assembly: &Assembly, at| assembly.is_complete(at, 100, 3000);
        assert!(!complete(&assembly, 3999));
        assert!(complete(&assembly, 4000), "nobody came");
        assembly.connected(1500);
        assert!(!complete(&assembly, 1599));
        assert!(complete(&assembly, 1600));
    }
}
