//! Starts the server for a directory of its own, asks it for things that it may and may not serve, and judges the
//! answers.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

/// Longer than anything here takes, and short enough to see that something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run() -> Result<ExitCode, Box<dyn Error>> {
    let site = Site::make()?;
    let mut server = Running::start(&site)?;
    println!("{}", server.enforced);

    let rows = [
        server.get("a file", "/large.bin", "granted", &Want::File(&site.large)),
        server.get("a file in a sub-directory", "/docs/guide.txt", "granted", &Want::File(b"The guide.\n")),
        server.get("an absent file", "/absent.html", "allowed, but ENOENT", &Want::Status(404)),
        server.get("a file outside the policy", "//etc/passwd", "refused: no rule", &Want::Status(403)),
        server.get("a way up and out", "/../secret.txt", NOT_ASKED, &Want::Status(400)),
        server.get("a symlink that leads out", "/leak.txt", "allowed, but ELOOP", &Want::Status(403)),
        server.get("a directory symlink out", "/up/secret.txt", "allowed, but ELOOP", &Want::Status(403)),
        server.get("a FIFO", "/pipe", "refused: not a regular file", &Want::Status(403)),
        server.log(&site),
        server.get("listen on another port", "/-/listen-elsewhere", "refused: no rule", &Want::Errno(Errno::EACCES)),
        server.get("worker: open /etc/passwd", "/-/open-passwd", NOT_ASKED, &Want::Errno(Errno::EPERM)),
        server.get("worker: make a socket", "/-/make-socket", NOT_ASKED, &Want::Errno(Errno::EPERM)),
        server.get("worker: signal its parent", "/-/signal-parent", NOT_ASKED, &Want::Errno(Errno::EPERM)),
        server.terminate(),
    ];
    print_table(&rows);
    let failed = rows.iter().filter(|row| !row.good).count();
    if failed > 0 {
        println!("\n{failed} of {} rows are not as they should be", rows.len());
        return Ok(ExitCode::FAILURE);
    }
    println!("\nall {} rows are as they should be", rows.len());
    Ok(ExitCode::SUCCESS)
}

const NOT_ASKED: &str = "was not asked";

/// What is to come back.
enum Want<'a> {
    /// 200, with these bytes.
    File(&'a [u8]),
    /// This status.
    Status(u16),
    /// 200 from an attempt of the worker's, which tells this errno.
    Errno(Errno),
}

/// One line of the table.
struct Row {
    asked: String,
    said: String,
    came_back: String,
    good: bool,
}

/// What the server serves, and what lies beside it.
struct Site {
    directory: TempDir,
    large: Vec<u8>,
}

const OLD_LINE: &str = "a line from before\n";

impl Site {
    fn make() -> io::Result<Self> {
        let directory = TempDir::new()?;
        let root = directory.path().join("site");
        let large: Vec<u8> =
            (0..1_000_000u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        fs::create_dir_all(root.join("docs"))?;
        fs::write(root.join("large.bin"), &large)?;
        fs::write(root.join("docs/guide.txt"), "The guide.\n")?;
        fs::write(directory.path().join("secret.txt"), "The secret.\n")?;
        fs::write(directory.path().join("site.log"), OLD_LINE)?;
        symlink("../secret.txt", root.join("leak.txt"))?;
        symlink("..", root.join("up"))?;
        mkfifo(&root.join("pipe"), Mode::S_IRUSR)?;
        Ok(Self { directory, large })
    }
}

/// The server: its broker, and through it its worker.
struct Running {
    broker: Child,
    audit: Lines,
    address: SocketAddr,
    enforced: String,
    /// What the policy said when the worker asked for its log.
    append: String,
    requests: usize,
}

impl Running {
    fn start(site: &Site) -> Result<Self, Box<dyn Error>> {
        let directory = site.directory.path().canonicalize()?;
        let mut broker = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .arg(directory.join("site"))
            .args(["--listen", "127.0.0.1:0", "--attempts", "--log"])
            .arg(directory.join("site.log"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdout, stderr) = (broker.stdout.take(), broker.stderr.take());
        let (Some(stdout), Some(mut stderr)) = (stdout, stderr) else { return Err("no pipes".into()) };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(address) = line.strip_prefix("listening on ") else {
            let _ = broker.wait();
            return Err(io::read_to_string(&mut stderr)?.into());
        };
        let address = address.trim().parse()?;
        let mut audit = Lines { pipe: stderr, text: Vec::new() };
        let (mut enforced, mut append) = (String::new(), NOT_ASKED.to_owned());
        // It is the last thing that the worker asks for before it listens.
        while append == NOT_ASKED {
            let Some(line) = audit.next_within(PATIENCE) else { break };
            match line.strip_prefix("audit\t") {
                None => enforced += &format!("{line}\n"),
                Some(request) => {
                    if let Some((_, said)) = request.strip_prefix("append ").and_then(|append| append.split_once('\t'))
                    {
                        append = said.to_owned();
                    }
                }
            }
        }
        Ok(Self { broker, audit, address, enforced, append, requests: 0 })
    }

    /// What the broker has said since this was last asked, or will have said of so many requests: it records one when it
    /// has answered it.
    fn said(&mut self, requests: usize) -> String {
        let mut said = Vec::new();
        let patience = |so_far: usize| if so_far < requests { PATIENCE } else { Duration::ZERO };
        while let Some(line) = self.audit.next_within(patience(said.len())) {
            said.extend(line.strip_prefix("audit\t").and_then(|line| Some(line.split_once('\t')?.1.to_owned())));
        }
        if said.is_empty() { NOT_ASKED.to_owned() } else { said.join("; ") }
    }

    fn get(&mut self, what: &str, path: &str, want_said: &str, want: &Want<'_>) -> Row {
        self.requests += 1;
        let answer = get(self.address, path);
        let said = self.said(usize::from(want_said != NOT_ASKED));
        let (came_back, good) = match answer {
            Ok((status, body)) => want.judge(status, &body),
            Err(error) => (error.to_string(), false),
        };
        let asked = format!("{what} ({})", path.strip_prefix("/-/").map_or(path, |_| "from inside"));
        Row { asked, good: good && said == want_said, said, came_back }
    }

    /// The worker has the log open since it started, and has written a line a request.
    fn log(&mut self, site: &Site) -> Row {
        let log = fs::read_to_string(site.directory.path().join("site.log")).unwrap_or_default();
        let new = log.strip_prefix(OLD_LINE).map_or(0, |new| new.lines().count());
        Row {
            asked: "append to the log (site.log)".to_owned(),
            came_back: format!("the old line and {new} new"),
            good: new == self.requests && self.append == "granted",
            said: self.append.clone(),
        }
    }

    fn terminate(&mut self) -> Row {
        let pid = Pid::from_raw(self.broker.id().try_into().unwrap_or(i32::MAX));
        let deadline = Instant::now() + PATIENCE;
        let mut code = None;
        if kill(pid, Signal::SIGTERM).is_ok() {
            while code.is_none() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
                code = self.broker.try_wait().ok().flatten().and_then(|status| status.code());
            }
        }
        Row {
            asked: "end (SIGTERM, passed on to the worker)".to_owned(),
            said: "-".to_owned(),
            came_back: format!("exit status {}", code.map_or("unknown".to_owned(), |code| code.to_string())),
            good: code == Some(128 + Signal::SIGTERM as i32),
        }
    }
}

/// What comes through a pipe.
struct Lines {
    pipe: ChildStderr,
    text: Vec<u8>,
}

impl Lines {
    /// The next line, if there is one within this time.
    fn next_within(&mut self, time: Duration) -> Option<String> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            let mut wanted = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wanted, PollTimeout::try_from(rest).ok()?).ok()? == 0 {
                return None;
            }
            let mut some = [0; 4096];
            let len = self.pipe.read(&mut some).ok().filter(|len| *len > 0)?;
            self.text.extend_from_slice(&some[..len]);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.broker.kill();
        let _ = self.broker.wait();
    }
}

impl Want<'_> {
    fn judge(&self, status: u16, body: &[u8]) -> (String, bool) {
        match self {
            Self::File(content) => {
                let same = body == *content;
                let word = if same { "the same" } else { "NOT the same" };
                (format!("{status}, {} bytes, {word}", body.len()), status == 200 && same)
            }
            Self::Status(want) => (status.to_string(), status == *want),
            Self::Errno(errno) => {
                let told = String::from_utf8_lossy(body).into_owned();
                let good = told == format!("{errno:?}");
                (told, good)
            }
        }
    }
}

/// A client that sends a path as it stands: any other would tidy up `..` first.
fn get(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>), Box<dyn Error>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("no end of the header")?;
    let header = String::from_utf8_lossy(&answer[..end]);
    let status = header.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, answer.split_off(end + 4)))
}

fn print_table(rows: &[Row]) {
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let paint = |text: String, code| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    let width = |cell: fn(&Row) -> &str, title: &str| {
        rows.iter().map(|row| cell(row).chars().count()).chain([title.len()]).max().unwrap_or(0)
    };
    let [asked, said] = [width(|row| &row.asked, "asked"), width(|row| &row.said, "the policy")];
    let title = format!("    {:<asked$}  {:<said$}  {}", "asked", "the policy", "came back");
    println!("{}", paint(title, "1"));
    for row in rows {
        let mark = if row.good { paint("ok".into(), "32") } else { paint("NO".into(), "1;31") };
        println!("{mark}  {:<asked$}  {:<said$}  {}", row.asked, row.said, row.came_back);
    }
}
