//! A pick allocates nothing: every connection makes one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tidegate::balance::{Candidate, Load, Options, Request, STRATEGIES, Tried};

#[test]
fn no_strategy_allocates_when_it_picks() {
    let candidates: Vec<Candidate> = (0..1_000)
        .map(|id| Candidate {
            id,
            key: format!("b{id}").into(),
            weight: 1 + id % 4,
            load: Arc::new(Load::default()),
        })
        .collect();
    let tried = [Tried::default(), [1, 2, 3].into_iter().collect(), (0..1_000).collect()];
    for entry in STRATEGIES {
        let strategy = (entry.build)(&candidates, &Options::default());
        let allocated = allocation_counter::measure(|| {
            for (tried, n) in tried.iter().flat_map(|tried| (0..100_u32).map(move |n| (tried, n))) {
                let source = (n % 2 == 0).then_some(IpAddr::V4(Ipv4Addr::from_bits(n)));
                let random = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let request = Request { source, turn: n.into(), random, now_ms: n, tried };
                assert_eq!(strategy.pick(&candidates, &request).is_none(), tried.len() == 1_000);
            }
        });
        assert_eq!(allocated.count_total, 0, "{} allocates", entry.name);
    }
    let control = allocation_counter::measure(|| drop(vec![0_u8; 64]));
    assert_eq!(control.count_total, 1, "the counter counts");
}
