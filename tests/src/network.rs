//! A network of one's own between the processes of a fleet, in whatever weather a test wants.
//!
//! Everybody reaches the controller and the trainer at another loopback address than the one at which they listen. There this proxy
//! accepts their connections, passes the bytes on, and does to them what the weather says. What happens to a connection is drawn from
//! the seed, the number of the connection and the number of the weather.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::miniature::Ports;
use crate::miniature::model::Random;

/// Where the network accepts connections.
pub const HOST: &str = "127.0.0.2";

/// Bytes passed on at a time, and at the same time the most that is on its way in a slow network.
const CHUNK: usize = 16 * 1024;

/// Most bytes after which a connection that is to break does so.
const BREAKS_WITHIN: u64 = 32 * 1024;

/// Bytes of a handshake with certificates on both sides, and no more than few of what follows.
const HANDSHAKE: u64 = 3 * 1024;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Calm,
    /// Each piece waits between 10 and 60 ms.
    Latency,
    /// 24 to 96 KiB a second and direction, drawn for each connection.
    Slow,
    /// Connections end, every second one within its first 32 KiB, until so many have.
    Losses(u32),
    /// As losses, but by a reset.
    Resets(u32),
    /// As losses, but nobody hears of it: the connection stays, and no byte passes any more.
    HalfOpen(u32),
    /// Connections to the trainer's rounds go silent as [`Weather::HalfOpen`] has it, all of them once they have shaken hands.
    RoundsSilent,
    /// No byte passes, on any connection, old or new. All stay.
    Dead,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Close,
    Reset,
    Silence,
}

/// What is to happen to one connection in one weather.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// Wait of each piece: least and most.
    delay_ms: Option<(u64, u64)>,
    bytes_per_second: Option<u64>,
    /// After so many bytes, both directions together.
    breaks: Option<(u64, Break)>,
}

impl Fate {
    fn draw(weather: Weather, is_rounds: bool, random: &mut Random) -> Self {
        let calm = Self::default();
        let mut breaking = |how| {
            // Few bytes are as likely as many: handshakes break as well as transfers.
            let most = 1 << (1 + random.below(u64::from(BREAKS_WITHIN.ilog2())));
            let breaks = (random.below(2) == 0).then(|| (random.below(most), how));
            Self { breaks, ..calm }
        };
        match weather {
            Weather::Calm => calm,
            Weather::Latency => Self {
                delay_ms: Some((10, 60)),
                ..calm
            },
            Weather::Slow => Self {
                bytes_per_second: Some(24 * 1024 + random.below(72 * 1024)),
                ..calm
            },
            Weather::Losses(_) => breaking(Break::Close),
            Weather::Resets(_) => breaking(Break::Reset),
            Weather::HalfOpen(_) => breaking(Break::Silence),
            Weather::RoundsSilent => Self {
                breaks: is_rounds.then_some((HANDSHAKE, Break::Silence)),
                ..calm
            },
            Weather::Dead => Self {
                breaks: Some((0, Break::Silence)),
                ..calm
            },
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that were made.
    pub connections: u64,
    /// Connections that were broken, in whatever way.
    pub broken: u64,
    /// Pieces that waited for the network.
    pub delayed: u64,
}

/// A connection that went silent, and how long its ends took to find out and close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The port of the server.
    pub port: u16,
    /// Since when.
    pub began: Instant,
    /// After this time the client closed its end.
    pub client: Option<Duration>,
    /// After this time the server closed its end.
    pub server: Option<Duration>,
}

impl Silence {
    /// How long the slower end took so far.
    pub fn unnoticed(&self) -> Duration {
        let so_far = |end: Option<Duration>| end.unwrap_or_else(|| self.began.elapsed());
        so_far(self.client).max(so_far(self.server))
    }

    /// Whether both ends know.
    pub fn is_noticed(&self) -> bool {
        self.client.is_some() && self.server.is_some()
    }
}

#[derive(Debug)]
struct Sky {
    seed: u64,
    /// The weather, and its number.
    weather: watch::Sender<(Weather, u64)>,
    /// Connections that may still break in this weather.
    left: Mutex<u32>,
    connections: AtomicU64,
    broken: AtomicU64,
    delayed: AtomicU64,
    silences: Mutex<Vec<Silence>>,
    /// The port of the trainer's rounds.
    rounds: u16,
}

impl Sky {
    /// Whether one more connection may break.
    fn take_break(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let may = *left > 0;
        *left = left.saturating_sub(1);
        if may {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
        may
    }
}

/// The network. It ends when it is dropped.
#[derive(Debug)]
pub struct Network {
    sky: Arc<Sky>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Passes on what comes to these ports at [`HOST`].
    ///
    /// # Panics
    /// When a port is taken.
    pub fn start(ports: &Ports, seed: u64) -> Self {
        let sky = Arc::new(Sky {
            seed,
            weather: watch::Sender::new((Weather::Calm, 0)),
            left: Mutex::default(),
            connections: AtomicU64::default(),
            broken: AtomicU64::default(),
            delayed: AtomicU64::default(),
            silences: Mutex::default(),
            rounds: ports.rounds,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime for the network");
        let listeners: Vec<(TcpListener, u16)> = [ports.grpc, ports.artifacts, ports.rounds]
            .map(|port| (runtime.block_on(async { listen(port) }), port))
            .into();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&sky);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                for (listener, port) in listeners {
                    tokio::spawn(accept(listener, port, Arc::clone(&shared)));
                }
                // Nobody sends: this is the end of the network.
                let _ = stopped.await;
            });
        });
        Self {
            sky,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Changes the weather. Silent connections are reset, unless they are to stay silent.
    pub fn turn(&self, weather: Weather) {
        let breaks = match weather {
            Weather::Losses(most) | Weather::Resets(most) | Weather::HalfOpen(most) => most,
            Weather::Dead | Weather::RoundsSilent => u32::MAX,
            Weather::Calm | Weather::Latency | Weather::Slow => 0,
        };
        *self.sky.left.lock().unwrap_or_else(PoisonError::into_inner) = breaks;
        self.sky
            .weather
            .send_modify(|(now, number)| (*now, *number) = (weather, *number + 1));
    }

    /// Connections that went silent so far.
    pub fn silences(&self) -> Vec<Silence> {
        self.sky.silences.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What happened so far.
    pub fn tally(&self) -> Tally {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Tally {
            connections: count(&self.sky.connections),
            broken: count(&self.sky.broken),
            delayed: count(&self.sky.delayed),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said why.
            let _ = thread.join();
        }
    }
}

fn listen(port: u16) -> TcpListener {
    let host: IpAddr = HOST.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket's option");
    socket
        .bind(SocketAddr::new(host, port))
        .unwrap_or_else(|error| panic!("{HOST}:{port}: {error}"));
    socket.listen(1024).expect("a listening socket")
}

async fn accept(listener: TcpListener, port: u16, sky: Arc<Sky>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = sky.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(carry(client, port, number, Arc::clone(&sky)));
    }
}

async fn carry(mut client: TcpStream, port: u16, number: u64, sky: Arc<Sky>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut weather = sky.weather.subscribe();
    let line = Line::new(number, port, &sky);
    line.meet(*weather.borrow_and_update());
    let how = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let both = async {
            tokio::try_join!(
                line.pump(&mut from_client, &mut to_server),
                line.pump(&mut from_server, &mut to_client)
            )
        };
        // What is on its way stays so when the weather changes: TCP loses nothing in the middle.
        let mut both = pin!(both);
        loop {
            tokio::select! {
                ended = &mut both => break ended.err(),
                Ok(()) = weather.changed() => {
                    let now = *weather.borrow_and_update();
                    if now.0 == Weather::Dead {
                        break Some(Break::Silence);
                    }
                    line.meet(now);
                }
            }
        }
    };
    match how {
        None | Some(Break::Close) => return,
        Some(Break::Silence) => swallow(&mut client, &mut server, port, &sky, weather).await,
        Some(Break::Reset) => {}
    }
    let _ = (client.set_zero_linger(), server.set_zero_linger());
}

/// Takes every byte and passes none on, until the weather is another one. Notes when the ends find out.
async fn swallow(
    client: &mut TcpStream,
    server: &mut TcpStream,
    port: u16,
    sky: &Sky,
    mut weather: watch::Receiver<(Weather, u64)>,
) {
    let began = Instant::now();
    let place = {
        let mut silences = sky.silences.lock().unwrap_or_else(PoisonError::into_inner);
        silences.push(Silence {
            port,
            began,
            client: None,
            server: None,
        });
        silences.len() - 1
    };
    let note = |end: fn(&mut Silence) -> &mut Option<Duration>| {
        let mut silences = sky.silences.lock().unwrap_or_else(PoisonError::into_inner);
        *end(&mut silences[place]) = Some(began.elapsed());
    };
    let drained = async {
        tokio::join!(
            async {
                drain(client).await;
                note(|silence| &mut silence.client);
            },
            async {
                drain(server).await;
                note(|silence| &mut silence.server);
            }
        );
    };
    let another = weather.wait_for(|(weather, _)| !matches!(weather, Weather::Dead | Weather::RoundsSilent));
    tokio::select! {
        () = drained => {}
        _ = another => {}
    }
}

/// Reads until the other end closes.
async fn drain(stream: &mut TcpStream) {
    let mut bytes = vec![0; CHUNK];
    while let Ok(1..) = stream.read(&mut bytes).await {}
}

struct Line<'a> {
    number: u64,
    port: u16,
    sky: &'a Sky,
    now: Mutex<(Fate, Random)>,
    /// Bytes in this weather.
    passed: AtomicU64,
}

impl<'a> Line<'a> {
    fn new(number: u64, port: u16, sky: &'a Sky) -> Self {
        Self {
            number,
            port,
            sky,
            now: Mutex::new((Fate::default(), Random(0))),
            passed: AtomicU64::new(0),
        }
    }

    /// Another weather begins for this connection.
    fn meet(&self, (weather, turn): (Weather, u64)) {
        let seed = self.sky.seed.wrapping_mul(1_000_003).wrapping_add(self.number);
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(turn));
        let fate = Fate::draw(weather, self.port == self.sky.rounds, &mut random);
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (fate, random);
        self.passed.store(0, Ordering::Relaxed);
    }

    fn fate(&self) -> Fate {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Passes bytes on in one direction until its sender closes it.
    async fn pump(&self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> Result<(), Break> {
        let mut bytes = vec![0; CHUNK];
        loop {
            let count = from.read(&mut bytes).await.map_err(|_| Break::Reset)?;
            let fate = self.fate();
            if let Some(how) = self.breaks_now(fate) {
                return Err(how);
            }
            if count == 0 {
                let _ = to.shutdown().await;
                return Ok(());
            }
            if let Some((least, most)) = fate.delay_ms {
                let wait = least + self.below(most - least);
                self.wait(Duration::from_millis(wait)).await;
            }
            self.passed.fetch_add(count as u64, Ordering::Relaxed);
            to.write_all(&bytes[..count]).await.map_err(|_| Break::Reset)?;
            if let Some(rate) = fate.bytes_per_second {
                self.wait(Duration::from_secs_f64(count as f64 / rate as f64)).await;
            }
        }
    }

    fn breaks_now(&self, fate: Fate) -> Option<Break> {
        let (after, how) = fate.breaks?;
        let is_due = self.passed.load(Ordering::Relaxed) >= after;
        (is_due && self.sky.take_break()).then_some(how)
    }

    fn below(&self, bound: u64) -> u64 {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.1.below(bound)
    }

    async fn wait(&self, time: Duration) {
        self.sky.delayed.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(time).await;
    }
}
