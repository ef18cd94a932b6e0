//! The processes that are measured, and what they use.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that is ended when this is dropped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts `command` and waits until `port` accepts connections. What it says goes to the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path, port: u16) -> io::Result<Self> {
        let log = std::fs::File::create(log)?;
        let spawned = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let mut server = Self(spawned.map_err(|error| {
            io::Error::other(format!("cannot run {}: {error}", command.get_program().display()))
        })?);
        // valgrind takes some seconds.
        let deadline = Instant::now() + Duration::from_mins(1);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = server.0.try_wait()? {
                return Err(io::Error::other(format!("the server ended at its start: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("the server does not listen"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> io::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
            .ok_or_else(|| io::Error::other("no VmRSS"))
    }

    /// Ends the server with SIGTERM and waits until it is gone.
    pub(crate) fn terminate(&mut self) -> io::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("no such process"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.0.wait().map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU seconds used so far, by a server and by the machine around it.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    at: Instant,
    server: f64,
    own: f64,
    machine: f64,
}

/// What was used between two moments.
pub(crate) struct Used {
    pub(crate) seconds: f64,
    /// CPU seconds of the server.
    pub(crate) server: f64,
    /// Share of the machine that programs outside the benchmark took, on other virtual machines too.
    pub(crate) foreign: f64,
}

impl Usage {
    pub(crate) fn of(server: &Server) -> io::Result<Self> {
        Self::beside(server, None)
    }

    /// With another process that belongs to the measurement, though not to the server's figures.
    pub(crate) fn beside(server: &Server, other: Option<&Server>) -> io::Result<Self> {
        let other = other.map_or(Ok(0.0), |other| process_seconds(&other.pid().to_string()))?;
        Ok(Self {
            at: Instant::now(),
            server: process_seconds(&server.pid().to_string())?,
            own: process_seconds("self")? + other,
            machine: machine_seconds()?,
        })
    }

    pub(crate) fn until(self, later: Self) -> Used {
        let seconds = (later.at - self.at).as_secs_f64();
        let server = later.server - self.server;
        let foreign = later.machine - self.machine - server - (later.own - self.own);
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Used { seconds, server, foreign: (foreign / (seconds * cores)).max(0.0) }
    }
}

/// User and system time of a process with all its threads.
fn process_seconds(pid: &str) -> io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before the last parenthesis may hold spaces; after it `state` is the third field.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    ticks(fields.split_whitespace().skip(11).take(2))
}

/// User, nice and system time of all processors, and the time that a hypervisor gave to others.
fn machine_seconds() -> io::Result<f64> {
    const STOLEN: usize = 7;
    let stat = std::fs::read_to_string("/proc/stat")?;
    let cpu = stat.lines().next().unwrap_or("").split_whitespace().skip(1);
    ticks(cpu.clone().take(3).chain(cpu.skip(STOLEN).take(1)))
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> io::Result<f64> {
    let mut sum = 0;
    for field in fields {
        sum += field.parse::<u64>().map_err(io::Error::other)?;
    }
    Ok(sum as f64 / rustix::param::clock_ticks_per_second() as f64)
}
