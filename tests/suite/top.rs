//! `tidegate top` in a terminal: a pair of pseudo-terminals, looked at without their escapes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::support::admin::Admin;
use super::support::{PATIENCE, Proxy, Setup, TestBackend, eventually};

/// `top`, the keyboard before it and what it wrote; killed when dropped.
struct Terminal {
    child: Child,
    keyboard: File,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(admin: &Admin, (columns, rows): (u16, u16), environment: &[(&str, &str)]) -> Self {
        let here = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&here).unwrap();
        unlockpt(&here).unwrap();
        let name = ptsname(&here, Vec::new()).unwrap();
        let there = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        resize(&there, columns, rows);
        let stdio = || Stdio::from(there.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["top", "--admin", &format!("http://{}", admin.address())])
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        drop(there);
        let keyboard = File::from(here);
        let (mut screen, written) =
            (keyboard.try_clone().unwrap(), Arc::<Mutex<Vec<u8>>>::default());
        let collected = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                collected.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, keyboard, written }
    }

    /// What stands on the screen, line by line.
    fn screen(&self) -> String {
        let bytes = self.written.lock().unwrap().clone();
        let text = String::from_utf8_lossy(&bytes);
        let mut parts = text.split('\u{1b}');
        let mut grid = vec![vec![' '; 200]; 60];
        let (mut row, mut column) = (0, 0);
        let mut print = |text: &str, (row, column): (usize, usize)| {
            for (offset, letter) in text.chars().enumerate() {
                if let Some(cell) = grid[row.min(59)].get_mut(column + offset) {
                    *cell = letter;
                }
            }
            column + text.chars().count()
        };
        column = print(parts.next().unwrap(), (row, column));
        for part in parts {
            // An escape that `top` uses is CSI, numbers and a letter (ECMA-48, section 5.4).
            let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
            let (escape, text) = part.split_at(end);
            if let Some(place) = escape.strip_prefix('[').and_then(|e| e.strip_suffix('H')) {
                let (r, c) = place.split_once(';').unwrap_or(("1", "1"));
                (row, column) = (r.parse::<usize>().unwrap() - 1, c.parse::<usize>().unwrap() - 1);
            } else if escape == "[2J" {
                print(&" ".repeat(200), (0, 0));
                (0..60).for_each(|row| _ = print(&" ".repeat(200), (row, 0)));
            }
            column = print(text, (row, column));
        }
        grid.into_iter().map(|line| line.into_iter().collect::<String>() + "\n").collect()
    }

    #[track_caller]
    fn until(&self, words: &str) {
        eventually(PATIENCE, words, || self.screen().contains(words));
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    #[track_caller]
    fn end(&mut self) -> Option<i32> {
        let mut status = None;
        eventually(PATIENCE, "it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("on the screen:\n{}", self.screen());
        }
    }
}

fn resize(terminal: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

fn start(backends: &[TestBackend; 2]) -> Proxy {
    let [one, two] = backends.each_ref().map(TestBackend::address);
    let named = |name: &str, at: &str| format!("{{name: {name}, address: \"{at}\"}}");
    Setup::to([named("one", one), named("two", two)])
        .pool("strategy: hot_standby")
        .head("admin: {bind: \"127.0.0.1:0\"}")
        .start()
}

#[test]
fn keys_drain_enable_move_the_role_filter_and_quit() {
    let backends = [TestBackend::named("one"), TestBackend::named("two")];
    let proxy = start(&backends);
    let admin = Admin::of(&proxy);
    let state = |place: usize| {
        admin.get("/api/v1/status").ok()["pools"][0]["backends"][place]["state"].clone()
    };
    let mut top = Terminal::start(&admin, (80, 24), &[]);
    top.until("* one");
    top.until("? help");
    top.press("?");
    top.until("Any key closes this");
    top.press("x");
    eventually(PATIENCE, "the help is gone", || !top.screen().contains("Any key closes this"));
    top.press("jd");
    top.until("drain app/two?");
    top.press("n");
    top.until("nothing was done");
    assert_eq!(state(1), "healthy");
    top.press("dy");
    top.until("done: drain app/two");
    assert_eq!(state(1), "draining");
    top.press("ey");
    top.until("done: enable app/two");
    assert_eq!(state(1), "healthy");
    top.press("fy");
    top.until("done: make two the active one of app");
    assert_eq!(admin.get("/api/v1/status").ok()["pools"][0]["active"], "two");
    top.press("/nobody");
    top.until("no backend is like that");
    top.press("\u{1b}");
    top.until("* two");
    resize(&top.keyboard, 120, 40);
    top.until("OUT/S");
    top.press("q");
    assert_eq!(top.end(), Some(0));
    let all = String::from_utf8_lossy(&top.written.lock().unwrap()).into_owned();
    assert!(all.contains("\u{1b}[?1049l"), "the screen of before is given back: {all:?}");
}

#[test]
fn an_instance_that_goes_is_told_and_ctrl_c_ends() {
    let backends = [TestBackend::named("one"), TestBackend::named("two")];
    let mut proxy = start(&backends);
    let admin = Admin::of(&proxy);
    let mut top = Terminal::start(&admin, (80, 24), &[("NO_COLOR", "1")]);
    top.until("all well");
    let raw = String::from_utf8_lossy(&top.written.lock().unwrap()).into_owned();
    assert!(!raw.contains("\u{1b}[32m") && !raw.contains("[38;5;"), "no colours: {raw:?}");
    proxy.signal(rustix::process::Signal::KILL);
    proxy.expect_exit(PATIENCE);
    top.until("NO ANSWER");
    top.press("\u{3}");
    assert_eq!(top.end(), Some(0));
}
