use std::io::Write;
use std::sync::mpsc;
use std::time::Instant;

use proptest::prelude::*;

use super::writer::Sink;
use super::*;

fn record() -> Record {
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        listener: "web".into(),
        local: Some(Place::from("10.0.0.2:443".parse::<SocketAddr>().unwrap())),
        source: Some("[2001:db8::7]:40000".parse().unwrap()),
        peer: None,
        pool: Some("app".into()),
        backend: Some("app-2".into()),
        backend_address: Some(Place::Named(Arc::new(Address::Unix("/run/my app.sock".into())))),
        tried: vec![Tried { backend: "app-1".into(), error: "refused", ms: 0 }],
        connect_ms: Some(1),
        first_byte_ms: None,
        bytes_in: 0,
        bytes_out: u64::MAX,
        duration_ms: 61_000,
        end: Ending::ClientClosed,
        sni: Some((*b"api.example.com").into()),
    }
}

fn written(record: &Record, form: fn(&Record, &mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    form(record, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_record_as_json() {
    assert_eq!(
        written(&record(), json),
        concat!(
            r#"{"time":"2023-11-14T22:13:20.123Z","listener":"web","local":"10.0.0.2:443","#,
            r#""source":"[2001:db8::7]:40000","peer":null,"pool":"app","backend":"app-2","#,
            r#""backend_address":"unix:/run/my app.sock","#,
            r#""tried":[{"backend":"app-1","error":"refused","ms":0}],"connect_ms":1,"#,
            r#""first_byte_ms":null,"bytes_in":0,"bytes_out":18446744073709551615,"#,
            r#""duration_ms":61000,"end":"client_closed","sni":"api.example.com"}"#,
            "\n"
        )
    );
}

#[test]
fn a_record_as_text() {
    assert_eq!(
        written(&record(), text),
        concat!(
            r"time=2023-11-14T22:13:20.123Z listener=web local=10.0.0.2:443 ",
            r"source=[2001:db8::7]:40000 peer=- pool=app backend=app-2 ",
            r#"backend_address="unix:/run/my app.sock" tried=app-1:refused:0ms connect_ms=1 "#,
            r"first_byte_ms=- bytes_in=0 bytes_out=18446744073709551615 ",
            r"duration_ms=61000 end=client_closed sni=api.example.com",
            "\n"
        )
    );
}

#[test]
fn what_came_from_the_wire_is_escaped() {
    let mut record = record();
    record.sni = Some(b"a\r\nb\x1b[2J\"\\ \xe2\x80\xaex\xff\xf0\x9f\x98\x80".to_vec().into());
    let escaped = r#""a\u000d\u000ab\u001b[2J\"\\ \u202ex\xff\ud83d\ude00""#;
    assert!(written(&record, text).contains(&format!("sni={escaped}\n")));
    let line = written(&record, json);
    assert!(line.contains(r#""sni":"a\u000d\u000ab\u001b[2J\"\\ \u202ex\\xff\ud83d\ude00"}"#));
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(read["sni"], "a\r\nb\u{1b}[2J\"\\ \u{202e}x\\xff😀");
}

#[test]
fn in_text_a_value_cannot_pass_for_another_field() {
    let mut record = record();
    for (sni, shown) in
        [("x end=killed", "\"x end=killed\""), ("x=y", "\"x=y\""), ("", "\"\""), ("-", "\"-\"")]
    {
        record.sni = Some(sni.as_bytes().into());
        assert!(written(&record, text).ends_with(&format!("sni={shown}\n")), "{sni}");
    }
}

proptest! {
    #[test]
    fn any_name_makes_one_line_of_printable_json(sni in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut record = record();
        record.sni = Some(sni.into());
        for form in [json, text] {
            let line = written(&record, form);
            let (line, rest) = line.split_once('\n').unwrap();
            prop_assert!(rest.is_empty());
            prop_assert!(line.chars().all(|c| !c.is_control() && (c.is_ascii() || c.is_alphanumeric())));
        }
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written(&record, json)).is_ok());
    }
}

/// A sink that passes on what it is given once it may.
struct Gate {
    open: Receiver<()>,
    to: mpsc::Sender<Vec<u8>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whoever drops the other end opens it for good.
        let _ = self.open.recv();
        self.to.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_stopped_costs_lines_and_no_time() {
    let (open, gate) = mpsc::channel();
    let (to, lines) = mpsc::channel();
    let counters = Arc::new(ProcessCounters::default());
    let sink = Sink::Test(Box::new(Gate { open: gate, to }));
    let log = AccessLog::with(sink, LogFormat::Json, Arc::clone(&counters), 100).unwrap();
    let recorder = log.recorder();
    let start = Instant::now();
    for _ in 0..10_000 {
        recorder.record(Box::new(record()));
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let dropped = counters.access_lines_dropped.get();
    assert!(dropped >= 9_000, "{dropped}");
    drop(open);
    drop(log);
    let written: usize =
        lines.iter().map(|chunk| chunk.iter().filter(|byte| **byte == b'\n').count()).sum();
    assert_eq!(written as u64 + dropped, 10_000);
}

#[test]
fn a_file_that_was_renamed_is_made_anew_on_request() {
    let folder = std::env::temp_dir().join(format!("tidegate-access-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (path, old) = (folder.join("access.log"), folder.join("access.log.1"));
    let counters = Arc::<ProcessCounters>::default();
    let destination = Destination::File(path.clone());
    let log = AccessLog::start(destination, LogFormat::Text, counters).unwrap();
    let lines =
        |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    let wait = |what: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !what() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    };
    log.recorder().record(Box::new(record()));
    wait(&|| lines(&path) == 1);
    std::fs::rename(&path, &old).unwrap();
    log.reopen();
    wait(&|| path.exists());
    log.recorder().record(Box::new(record()));
    drop(log);
    assert_eq!((lines(&old), lines(&path)), (1, 1));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_cannot_be_written_is_counted() {
    let counters = Arc::new(ProcessCounters::default());
    let full = Destination::File("/dev/full".into());
    let log = AccessLog::start(full, LogFormat::Text, Arc::clone(&counters)).unwrap();
    (0..3).for_each(|_| log.recorder().record(Box::new(record())));
    drop(log);
    assert_eq!(counters.access_lines_dropped.get(), 3);
}
