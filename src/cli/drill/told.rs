//! What the balancer tells, as the API has it, in a line for people.

use serde::Deserialize;

use super::screen::Tone;
use super::settings::PROGRAM;

/// An event. What its kind does not have is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub(super) kind: String,
    pub(super) pool: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) cause: String,
    evidence: String,
    detection_ms: u64,
    takeover_ms: Option<u64>,
    retried: u64,
    cut: u64,
    lost: u64,
    action: String,
    pub(super) result: Option<String>,
    duration_ms: u64,
}

impl Told {
    /// The line; its first word is what happened.
    pub(super) fn line(&self) -> (Tone, String) {
        let Self { kind, evidence, .. } = self;
        let backend = self.backend.as_deref().unwrap_or("nobody");
        match kind.as_str() {
            "evicted" => (Tone::Bad, format!("evicted {backend}: {evidence}")),
            "reinstated" => (Tone::Good, format!("reinstated {backend}: {evidence}")),
            "takeover" => (Tone::Takeover, self.takeover(backend)),
            "recovery" => (self.tone(), self.recovery(backend)),
            other => (Tone::Plain, format!("{other} {backend}: {evidence}")),
        }
    }

    fn takeover(&self, to: &str) -> String {
        let Self { detection_ms, retried, cut, lost, .. } = self;
        // What an operator wants nobody has to notice.
        let begin = match self.cause.as_str() {
            "operator" => "an operator's word".to_owned(),
            _ => format!("first failure, +{detection_ms} ms decided"),
        };
        let serving = match self.takeover_ms {
            Some(ms) => format!("+{ms} ms serving"),
            None => "nobody served yet".to_owned(),
        };
        format!("takeover by {to}: {begin}, {serving}; {retried} retried, {cut} cut, {lost} lost")
    }

    fn tone(&self) -> Tone {
        match self.result.as_deref() {
            Some("success" | "repaired") => Tone::Good,
            _ => Tone::Bad,
        }
    }

    fn recovery(&self, backend: &str) -> String {
        let result = self.result.as_deref().unwrap_or("?");
        let Self { evidence, duration_ms, .. } = self;
        if self.action == "verify" {
            return format!("recovery: {backend} is {result}");
        }
        let mut words = self.action.split_whitespace();
        // Its own program by its name, and without the name of the door.
        let action = match words.next() {
            Some(PROGRAM) => {
                ["tidegate"].into_iter().chain(words.take(2)).collect::<Vec<_>>().join(" ")
            }
            _ => self.action.clone(),
        };
        match result {
            "success" => format!("recovery: `{action}` succeeded in {duration_ms} ms"),
            _ => format!("recovery: `{action}` {result}: {evidence}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: &str) -> String {
        serde_json::from_str::<Told>(json).unwrap().line().1
    }

    #[test]
    fn each_kind_is_a_line() {
        for (json, line) in [
            (
                r#"{"id":1,"kind":"evicted","backend":"a","evidence":"3 checks failed","from":"healthy"}"#,
                "evicted a: 3 checks failed",
            ),
            (
                r#"{"kind":"takeover","backend":"b","from":"a","to":"b","cause":"outlier",
                    "detection_ms":1,"takeover_ms":4,"retried":1,"cut":0,"lost":0}"#,
                "takeover by b: first failure, +1 ms decided, +4 ms serving; 1 retried, 0 cut, 0 lost",
            ),
            (
                r#"{"kind":"takeover","backend":"a","cause":"operator","takeover_ms":9,"cut":2}"#,
                "takeover by a: an operator's word, +9 ms serving; 0 retried, 2 cut, 0 lost",
            ),
            (
                r#"{"kind":"recovery","backend":"a","action":"/proc/self/exe demo-restart a door",
                    "result":"success","duration_ms":41}"#,
                "recovery: `tidegate demo-restart a` succeeded in 41 ms",
            ),
            (
                r#"{"kind":"recovery","backend":"a","action":"/bin/x","result":"failure","evidence":"exit status 1"}"#,
                "recovery: `/bin/x` failure: exit status 1",
            ),
            (
                r#"{"kind":"recovery","backend":"a","action":"verify","result":"repaired"}"#,
                "recovery: a is repaired",
            ),
        ] {
            assert_eq!(told(json), line);
        }
    }
}
