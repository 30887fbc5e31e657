//! Everything that the keys of health, failover and recovery can be.

use std::num::NonZeroU32;
use std::time::Duration;

use hyper::Uri;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::millis;
use crate::config::model::{
    Action, Demotion, DemotionConnections, ExecAction, ExecProbe, Failback, Failover, HealthCheck,
    HttpProbe, OutlierDetection, Probe, Recovery, SendExpectProbe, StatusRange, TlsProbe,
    WebhookAction,
};
use crate::config::unit::Rate;

const DAY: u64 = 86_400_000;

fn host() -> impl Strategy<Value = String> {
    "[a-z]{1,8}(\\.[a-z][a-z0-9]{0,7}){0,2}"
}

/// Any text that a file can hold.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,12}", "[\\r\\n\\t\\x01é{}#:'\"]{1,6}", "null|off|~|0x1|007|-|\\?| | a "]
}

fn command(placeholders: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let placeholder = prop::sample::select(placeholders).prop_map(|name| format!("{{{name}}}"));
    let literal = text().prop_map(|text| text.replace('{', "{{").replace('}', "}}"));
    let argument = vec(prop_oneof![literal, placeholder], 0..3).prop_map(|parts| parts.concat());
    ("/[a-z ]{1,8}", vec(argument, 0..3)).prop_map(|(program, mut command)| {
        command.insert(0, program);
        command
    })
}

fn status() -> impl Strategy<Value = StatusRange> {
    (100..600_u16, 100..600_u16)
        .prop_map(|(one, other)| StatusRange { first: one.min(other), last: one.max(other) })
}

fn http() -> impl Strategy<Value = HttpProbe> {
    let method = prop::sample::select(vec!["GET", "POST", "OPTIONS"]);
    let target = "/[a-z?=&%{}*]{0,9}";
    (target, option::of(host()), method, vec(status(), 1..4), option::of(text())).prop_map(
        |(path, host, method, expect_status, expect_body)| HttpProbe {
            path,
            host,
            method: method.to_owned(),
            expect_status,
            expect_body,
        },
    )
}

fn probe() -> impl Strategy<Value = Probe> {
    let tls = (option::of(host()), any::<bool>()).prop_map(|(server_name, verify)| {
        // A unix socket may be among the backends: only a name can be verified there.
        Probe::Tls(TlsProbe { verify: verify && server_name.is_some(), server_name })
    });
    let send_expect = (prop_oneof![Just(String::new()), text()], text())
        .prop_map(|(send, expect)| Probe::SendExpect(SendExpectProbe { send, expect }));
    let exec = command(crate::config::model::PROBE_PLACEHOLDERS)
        .prop_map(|command| Probe::Exec(ExecProbe { command }));
    prop_oneof![Just(Probe::Tcp), tls, http().prop_map(Probe::Http), send_expect, exec]
}

pub(super) fn health_check() -> impl Strategy<Value = HealthCheck> {
    let counts = (1..=1000_u32, 1..=1000_u32, 0..=50_u32);
    let times = (millis(10, DAY), millis(1, 3_600_000), millis(10, DAY));
    (probe(), times, counts, option::of(1..=u16::MAX)).prop_map(
        |(probe, (interval, timeout, fast_interval), (rise, fall, jitter), port)| HealthCheck {
            probe,
            interval,
            timeout,
            rise,
            fall,
            fast_interval: fast_interval.min(interval),
            jitter,
            port,
        },
    )
}

pub(super) fn outlier_detection() -> impl Strategy<Value = OutlierDetection> {
    let first_byte = option::of(millis(1, 3_600_000));
    (1..=1000_u32, first_byte, millis(1, DAY), millis(1, DAY), 0..=100_u32).prop_map(
        |(consecutive_failures, first_byte, one, other, max_ejected_percent)| OutlierDetection {
            consecutive_failures,
            first_byte,
            base_ejection: one.min(other),
            max_ejection: one.max(other),
            max_ejected_percent,
        },
    )
}

pub(super) fn failover() -> impl Strategy<Value = Failover> {
    let failback = option::of(prop::sample::select(vec![Failback::Auto, Failback::Manual]));
    let connections = vec![DemotionConnections::Keep, DemotionConnections::Close];
    let connections = option::of(prop::sample::select(connections));
    (failback, millis(0, 1 << 38), connections, millis(0, DAY), 1..=u32::MAX).prop_map(
        |(failback, failback_delay, connections, grace, rate)| Failover {
            failback,
            failback_delay,
            demotion: Demotion { connections, grace, rate: Rate(rate) },
        },
    )
}

fn limits() -> impl Strategy<Value = (Duration, u32, Duration, Option<NonZeroU32>)> {
    let max_per_hour = (0..=100_000_u32).prop_map(NonZeroU32::new);
    (millis(1, DAY), 1..=100_u32, millis(0, DAY), max_per_hour)
}

fn exec() -> impl Strategy<Value = ExecAction> {
    (command(crate::config::model::ACTION_PLACEHOLDERS), limits()).prop_map(
        |(command, (timeout, attempts, backoff, max_per_hour))| ExecAction {
            command,
            timeout,
            attempts,
            backoff,
            max_per_hour,
            before_traffic: false,
        },
    )
}

fn webhook() -> impl Strategy<Value = WebhookAction> {
    let url = ("https?", host(), "(:[1-9][0-9]{0,3})?", "/[a-z]{0,5}(\\?[a-z=&]{0,5})?");
    let url = url.prop_map(|(scheme, host, port, path)| format!("{scheme}://{host}{port}{path}"));
    (url, limits()).prop_map(|(url, (timeout, attempts, backoff, max_per_hour))| WebhookAction {
        url: url.parse::<Uri>().unwrap(),
        timeout,
        attempts,
        backoff,
        max_per_hour,
    })
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    vec(prop_oneof![exec().prop_map(Action::Exec), webhook().prop_map(Action::Webhook)], 0..3)
}

pub(super) fn recovery() -> impl Strategy<Value = Recovery> {
    let takeover = (actions(), any::<bool>()).prop_map(|(mut actions, is_before)| {
        for action in &mut actions {
            if let Action::Exec(exec) = action {
                exec.before_traffic = is_before;
            }
        }
        actions
    });
    (actions(), takeover, actions(), actions(), actions()).prop_map(
        |(on_evict, on_takeover, on_reinstate, on_pool_down, on_pool_up)| Recovery {
            on_evict,
            on_takeover,
            on_reinstate,
            on_pool_down,
            on_pool_up,
        },
    )
}
