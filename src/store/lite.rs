//! SQLite: one thread that writes and a few that read, each taking whole jobs from a queue.
//!
//! A job is a whole transaction, so an operation costs one hop and its statements none. The futures of a job never wait for
//! anything on this backend; they are polled once, on the thread that owns the connection.
//! Owns: the connections, and the lock on the data directory until the last connection is closed.

use crate::conn::{Conn, Link};
use crate::error::{Error, Result};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Jobs that may wait: at 7,200 commits a second (measured, `synchronous=FULL`) about half a second of work.
const MAX_QUEUED: usize = 4_096;

pub(crate) type Job = Box<dyn FnOnce(&mut Conn) + Send>;

pub(crate) struct Queue {
    state: Mutex<(VecDeque<Job>, bool)>,
    wake: Condvar,
    /// Jobs do not wait for a thread: whoever brings one does it.
    #[cfg(feature = "testing")]
    here: Option<Mutex<Conn>>,
}

impl Queue {
    fn new() -> Arc<Queue> {
        Arc::new(Queue {
            state: Mutex::new((VecDeque::new(), false)),
            wake: Condvar::new(),
            #[cfg(feature = "testing")]
            here: None,
        })
    }

    #[cfg(feature = "testing")]
    fn in_caller(conn: SqliteConnection) -> Arc<Queue> {
        let state = Mutex::new((VecDeque::new(), false));
        Arc::new(Queue { state, wake: Condvar::new(), here: Some(Mutex::new(Conn::new(Link::Lite(conn)))) })
    }

    /// Fails when the queue is full or closed: the job is certainly not done.
    pub(crate) fn push(&self, job: Job) -> Result<()> {
        #[cfg(feature = "testing")]
        if let Some(conn) = &self.here {
            job(&mut conn.lock().unwrap_or_else(PoisonError::into_inner));
            return Ok(());
        }
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if s.1 {
            return Err(Error::Unavailable("the store is closed".into()));
        }
        if s.0.len() >= MAX_QUEUED {
            return Err(Error::Unavailable("too many operations are waiting".into()));
        }
        s.0.push_back(job);
        drop(s);
        self.wake.notify_one();
        Ok(())
    }

    fn pop(&self) -> Option<Job> {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = s.0.pop_front() {
                return Some(job);
            }
            if s.1 {
                return None;
            }
            s = self.wake.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.wake.notify_all();
    }
}

pub(crate) struct Lite {
    pub(crate) writer: Arc<Queue>,
    pub(crate) readers: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Lite {
    /// Errors: `Unavailable` when another process holds the data directory or the file cannot be opened.
    pub(crate) fn open(path: &Path, readers: usize) -> Result<Lite> {
        let lock = Arc::new(lock_directory(path)?);
        let (writer, reading) = (Queue::new(), Queue::new());
        let mut threads = Vec::with_capacity(readers + 1);
        for i in 0..=readers {
            let conn = connect(path)?;
            let (queue, name) = match i {
                0 => (writer.clone(), "store-writer".to_string()),
                n => (reading.clone(), format!("store-reader-{n}")),
            };
            let lock = lock.clone();
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                let mut conn = Conn::new(Link::Lite(conn));
                while let Some(job) = queue.pop() {
                    job(&mut conn);
                }
                drop(conn);
                drop(lock);
            });
            threads.push(thread.map_err(|e| Error::Unavailable(format!("cannot start a thread: {e}")))?);
        }
        Ok(Lite { writer, readers: reading, threads: Mutex::new(threads) })
    }

    /// One connection and no threads. Without fsync: what a simulation kills is not the machine.
    #[cfg(feature = "testing")]
    pub(crate) fn open_in_caller(path: &Path) -> Result<Lite> {
        let mut conn = connect(path)?;
        let off = conn.batch_execute("PRAGMA synchronous = OFF; PRAGMA cache_size = -4096; PRAGMA mmap_size = 0;");
        off.map_err(|e| Error::Unavailable(format!("cannot open {}: {e}", path.display())))?;
        let queue = Queue::in_caller(conn);
        Ok(Lite { writer: queue.clone(), readers: queue, threads: Mutex::new(Vec::new()) })
    }

    /// What is queued is done first.
    pub(crate) fn close(&self) {
        self.writer.close();
        self.readers.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for t in threads {
            // The last handle may be dropped by a job on one of these very threads.
            if t.thread().id() != std::thread::current().id() {
                let _ = t.join();
            }
        }
    }
}

impl Drop for Lite {
    fn drop(&mut self) {
        self.close();
    }
}

/// One server per data directory: two writers would each believe that they own its rollouts.
fn lock_directory(path: &Path) -> Result<File> {
    let dir = match path.parent() {
        Some(d) if !d.as_os_str().is_empty() => d.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let refuse =
        |e: &dyn std::fmt::Display| Error::Unavailable(format!("cannot use the data directory {}: {e}", dir.display()));
    std::fs::create_dir_all(&dir).map_err(|e| refuse(&e))?;
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(".lock")).map_err(|e| refuse(&e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(refuse(&"another sentinel-cp is running on it; one server per directory"))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(refuse(&e)),
    }
}

/// FULL: a commit that was acknowledged survives the loss of power. 32 MB of pages a connection, 256 MB mapped.
fn connect(path: &Path) -> Result<SqliteConnection> {
    let fail = |e: &dyn std::fmt::Display| Error::Unavailable(format!("cannot open {}: {e}", path.display()));
    let mut c = SqliteConnection::establish(&path.to_string_lossy()).map_err(|e| fail(&e))?;
    c.batch_execute(
        "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
         PRAGMA cache_size = -32768; PRAGMA mmap_size = 268435456; PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864;",
    )
    .map_err(|e| fail(&e))?;
    Ok(c)
}
