//! A run, from open tables to the last commit: attempts, what is read beside what, and planning anew.

use super::backfill::BatchLimits;
use super::capture::{self, Course, Ended, Until};
use super::keeper::Keeper;
use super::meter::{Meter, Phase};
use super::plan::StreamPlan;
use super::resume::{self, Ground};
use super::{Effort, Endless, OPEN_AT_ONCE, StreamRun, adapt, advance, capture_open, chunk_bytes, pool, split};
use crate::error::{Error, Kind, Result, Retry};
use crate::postgres::catalog::{self, TableInfo};
use crate::postgres::connect::ConnectOptions;
use crate::postgres::exported::{Exported, Relations};
use crate::postgres::replica;
use crate::shutdown::stopping;
use crate::state::State;
use adapt::Known;
use futures::StreamExt as _;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use writers::{Destination, Table as _};

/// An attempt of an endless run that has lasted so long has come to something: trying again begins with the shortest pause.
const LONG: Duration = Duration::from_secs(30);
/// How long a task that was aborted may hold a table.
const CLOSED: Duration = Duration::from_secs(10);
/// Between two commits of streams that are followed while others are loaded.
const BESIDE: Duration = Duration::from_secs(10);

/// Everything a run needs, checked: from here on nothing is refused for its configuration.
pub struct Run<D: Destination> {
    pub(super) options: ConnectOptions,
    pub(super) effort: Effort,
    pub(super) keeper: Arc<Keeper>,
    pub(super) streams: Vec<Arc<StreamRun<D::Table>>>,
    /// Streams that have failed and are not there any more.
    lost: Vec<Arc<Meter>>,
    /// Those that are followed while the others are read.
    aside: Vec<Arc<StreamRun<D::Table>>>,
    /// Whether everything that does not come from the log is committed, of these plans: an endless run reads it once.
    loaded: bool,
    /// The same, of any plans.
    loaded_once: bool,
    /// In which form values of the log are asked for.
    form: Arc<capture::Form>,
    /// Attempts that have failed since something was achieved.
    attempts: u32,
}

/// What a source is like now: plans, and streams that cannot be planned any more.
pub type Planned = (Vec<(StreamPlan, TableInfo)>, Vec<(String, Error)>);

/// Opens the table of a stream.
async fn open<D: Destination>(destination: &D, plan: StreamPlan, info: TableInfo, meter: Arc<Meter>) -> Result<Arc<StreamRun<D::Table>>> {
    let table = destination.open(&plan.spec).await.map_err(|e| Error::from(e).doing(format!("open the destination of {}", plan.id)))?;
    if plan.upserts || plan.capture.as_ref().is_some_and(|capture| capture.applies) {
        table.check_changes().map_err(|e| Error::from(e).doing(format!("plan {}", plan.id)))?;
    }
    meter.rows_estimated.store(info.estimated_rows.unwrap_or(0), Relaxed);
    Ok(Arc::new(StreamRun { plan, info, table: tokio::sync::Mutex::new(table), meter }))
}

impl<D: Destination> Run<D> {
    /// Opens every table in the destination. Streams that were followed and cannot be planned any more, or whose table cannot be opened any more, leave
    /// the others alone.
    pub async fn prepare(options: ConnectOptions, effort: Effort, keeper: Keeper, destination: &D, planned: Planned) -> Result<Self> {
        let several = planned.0.len() + planned.1.len() > 1;
        let mut run = Self {
            options,
            effort,
            keeper: Arc::new(keeper),
            streams: Vec::new(),
            lost: Vec::new(),
            aside: Vec::new(),
            loaded: false,
            loaded_once: false,
            form: Arc::default(),
            attempts: 0,
        };
        let keeper = run.keeper.clone();
        let alone = |id: &str| several && keeper.read(|state| state.is_followed(id));
        run.open_all(destination, planned, &alone).await?;
        // Nothing is left of it.
        if run.streams.is_empty() {
            run.finish()?;
        }
        Ok(run)
    }

    /// Plans all streams again, and opens their tables, some of which have changed. What stands in the way of one stream leaves the others alone; a
    /// server or a destination that cannot be reached is asked again, like any attempt of the run.
    pub async fn anew(&mut self, destination: &D, plan: impl AsyncFn(Known) -> Result<Planned>) -> Result<()> {
        loop {
            let outcome = match plan(self.keeper.read(adapt::known)).await {
                Ok(planned) => self.open_all(destination, planned, &|_| true).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.retry() == Retry::Again => {
                    if self.is_stopped_in_pause(error).await? {
                        return Ok(());
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Opens every table. A failure that is `alone` is that of its stream; any other ends it.
    async fn open_all(&mut self, destination: &D, (plans, failures): Planned, alone: &(dyn Fn(&str) -> bool + Sync)) -> Result<()> {
        let meters: HashMap<String, Arc<Meter>> = self.meters().into_iter().map(|meter| (meter.id.clone(), meter)).collect();
        let meter = |id: &str| meters.get(id).cloned().unwrap_or_else(|| Meter::new(id));
        let lose = |lost: &mut Vec<_>, id: &str, error: Error| {
            let meter = meter(id);
            if meter.failure().is_none() {
                tracing::error!("{error}");
                meter.fail(error);
            }
            lost.push(meter);
        };
        self.close_all().await?;
        self.loaded = false;
        let mut lost = Vec::new();
        failures.into_iter().for_each(|(id, error)| lose(&mut lost, &id, error));
        let open = async |(plan, info): (StreamPlan, TableInfo)| {
            let id = plan.id.clone();
            (open(destination, plan, info, meter(&id)).await, id)
        };
        let mut opened = futures::stream::iter(plans).map(open).buffered(OPEN_AT_ONCE);
        while let Some((outcome, id)) = opened.next().await {
            match outcome {
                Ok(stream) => self.streams.push(stream),
                Err(error) if error.retry() == Retry::Never && alone(&id) => lose(&mut lost, &id, error),
                Err(error) => return Err(error),
            }
        }
        self.lost = lost;
        Ok(())
    }

    /// Gives up all tables, whose locks would keep them from being opened again: tasks that were aborted hold them for a moment.
    async fn close_all(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.streams.append(&mut self.aside);
        while self.streams.iter().any(|stream| Arc::strong_count(stream) > 1) {
            if begun.elapsed() > CLOSED {
                return Err(Error::bug("a reader of an earlier attempt is still running"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.streams.clear();
        Ok(())
    }

    /// The counters of every stream, in the order of the catalog.
    pub fn meters(&self) -> Vec<Arc<Meter>> {
        self.streams.iter().chain(&self.aside).map(|s| s.meter.clone()).chain(self.lost.iter().cloned()).collect()
    }

    /// Saves what the state file does not have yet.
    pub fn save(&self) -> Result<()> {
        self.keeper.flush()
    }

    /// Loads every stream, and follows those whose changes are to be followed. Ends with an error when any stream failed; the others are committed
    /// nevertheless. [`Ended::Anew`] asks for [`Run::anew`] and another call.
    pub async fn load(&mut self) -> Result<Ended> {
        loop {
            if self.effort.endless.as_ref().is_some_and(|endless| endless.stop.is_told()) {
                return self.stopped();
            }
            let begun = Instant::now();
            let outcome = self.attempt().await;
            self.keeper.flush()?;
            if begun.elapsed() >= LONG && self.effort.endless.is_some() {
                self.attempts = 0;
            }
            match outcome {
                Err(error) if error.retry() == Retry::Again => {
                    if self.is_stopped_in_pause(error).await? {
                        return self.stopped();
                    }
                    // Whether a commit of changes came to something whose answer was lost, a table tells that is opened anew.
                    if self.effort.capture.is_some() {
                        return Ok(Ended::Anew);
                    }
                }
                Err(error) => return Err(replica::advise(error)),
                Ok(Ended::Anew) => return Ok(Ended::Anew),
                Ok(Ended::Complete) => return self.finish().map(|()| Ended::Complete),
            }
        }
    }

    /// Waits before another attempt, if there is to be one; says whether a stop was asked for meanwhile.
    async fn is_stopped_in_pause(&mut self, error: Error) -> Result<bool> {
        let endless = self.effort.endless.clone();
        let allowed = self.effort.retries.max(replica::attempts(&error));
        if endless.is_none() && self.attempts >= allowed {
            return Err(replica::advise(error));
        }
        self.attempts += 1;
        let pause = Duration::from_secs(1 << self.attempts.min(6)) / if endless.is_some() { 2 } else { 1 };
        let of = if endless.is_some() { String::new() } else { format!(" of {allowed}") };
        tracing::warn!("{error}; attempt {}{of} in {} s", self.attempts, pause.as_secs());
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(false),
            () = told(endless.as_ref()) => Ok(true),
        }
    }

    async fn attempt(&mut self) -> Result<Ended> {
        let Some(terms) = self.effort.capture.clone() else { return self.read_all().await };
        self.find_unseen(&terms).await?;
        if Box::pin(capture_open::open(&self.options, &terms, &self.streams, &self.keeper)).await? == Ended::Anew {
            return Ok(Ended::Anew);
        }
        if !self.loaded {
            let endless = self.effort.endless.clone();
            let ended = tokio::select! {
                ended = self.read_beside(&terms) => ended?,
                () = told(endless.as_ref()) => return self.stopped().map(|_| Ended::Complete),
            };
            if ended == Ended::Anew {
                return Ok(ended);
            }
            self.loaded = endless.is_some();
            self.loaded_once = true;
        }
        let until = match &self.effort.endless {
            Some(Endless { interval, stop }) => Until::Told { stop: stop.clone(), interval: *interval },
            None => Until::End,
        };
        self.follow(self.streams.clone(), &terms, Course { until, acknowledges: true }).outcome().await
    }

    /// Told to stop. That is a good end, unless something is still to be loaded.
    fn stopped(&self) -> Result<Ended> {
        let loads = |state: &State| {
            state.lakeward.loads.values().any(|load| !load.committed)
                || state.lakeward.captures.values().any(|captured| captured.reload || captured.is_copying())
        };
        match self.loaded_once && !self.keeper.read(loads) {
            true => self.finish().map(|()| Ended::Complete),
            false => Err(Error::new(Kind::Interrupted, "stopped by a signal; what is staged is kept")),
        }
    }

    fn follow(&self, streams: Vec<Arc<StreamRun<D::Table>>>, terms: &capture::Terms, course: Course) -> Following {
        let ground = capture::Ground {
            options: self.options.clone(),
            terms: terms.clone(),
            keeper: self.keeper.clone(),
            limits: self.limits(),
            form: self.form.clone(),
        };
        Following(tokio::spawn(capture::follow(streams, ground, course)))
    }

    fn limits(&self) -> BatchLimits {
        let Effort { memory, batch_bytes, batch_rows, pace, .. } = self.effort.clone();
        BatchLimits { memory, batch_bytes, batch_rows, pace }
    }

    /// What does not come from the log; the streams that have been loaded before are followed meanwhile, where that may take a while.
    async fn read_beside(&mut self, terms: &capture::Terms) -> Result<Ended> {
        let is_loaded = |stream: &StreamRun<D::Table>| self.keeper.read(|state| state.is_followed(&stream.plan.id));
        let (ready, rest): (Vec<_>, Vec<_>) = self.streams.iter().cloned().partition(|stream| is_loaded(stream));
        let loads = rest.iter().any(|stream| stream.plan.capture.is_some());
        drop(rest);
        if ready.is_empty() || !(loads || self.effort.endless.is_some()) || ready.len() == self.streams.len() {
            drop(ready);
            return self.read_all().await;
        }
        let (stopper, stop) = stopping();
        let interval = self.effort.endless.as_ref().map_or(BESIDE, |endless| endless.interval);
        let names: HashSet<String> = ready.iter().map(|stream| stream.plan.id.clone()).collect();
        let course = Course { until: Until::Told { stop, interval }, acknowledges: false };
        let mut following = self.follow(ready, terms, course);
        (self.aside, self.streams) = std::mem::take(&mut self.streams).into_iter().partition(|stream| names.contains(&stream.plan.id));
        let ended = tokio::select! {
            ended = self.read_all() => {
                stopper.stop();
                let followed = following.outcome().await;
                ended.and_then(|ended| if ended == Ended::Anew { Ok(ended) } else { followed })
            }
            followed = following.outcome() => followed,
        };
        self.streams.append(&mut self.aside);
        ended
    }

    /// What does not come from the log.
    async fn read_all(&mut self) -> Result<Ended> {
        let options = replica::choose(&self.options, &self.effort.replicas).await?;
        let exported = Exported::take(&options, &self.relations()).await?.bounded(self.effort.max_snapshot_age);
        tracing::info!("exported snapshot at {}, shared by {} readers", exported.moment.lsn, self.effort.readers);
        self.read(&options, &exported).await.map_err(|error| exported.cause(error))
    }

    async fn read(&mut self, options: &ConnectOptions, exported: &Exported) -> Result<Ended> {
        if !self.refresh(exported).await? {
            return Ok(Ended::Anew);
        }
        let endless = self.effort.endless.is_some();
        // An endless run that has begun anew has read these already.
        let is_read = |stream: &&Arc<StreamRun<D::Table>>| {
            let is_read_again = stream.plan.capture.is_some() || !endless || stream.meter.phase() != Phase::Done;
            is_read_again && stream.meter.failure().is_none()
        };
        let streams: Vec<_> = self.streams.iter().filter(is_read).cloned().collect();
        let chunk_bytes = chunk_bytes(streams.iter().map(|s| &s.info), self.effort.readers);
        let terms = split::Terms { server_version: exported.server_version, target_bytes: chunk_bytes, chunk_rows: self.effort.chunk_rows };
        let incremental = streams.iter().any(|stream| stream.plan.cursor.is_some());
        let quiet = incremental && advance::is_quiet(options, exported).await?;
        let ground = Ground { exported, keeper: &self.keeper, terms, quiet };
        let work = resume::prepare(&streams, ground).await?;
        pool::run(options, exported, &streams, work, &self.limits(), &self.keeper, &self.effort).await?;
        Ok(Ended::Complete)
    }

    fn relations(&self) -> Relations {
        let mut relations = Relations::default();
        for StreamRun { info, plan, .. } in self.streams.iter().map(Arc::as_ref) {
            relations.add(info, plan.columns.first().map(|column| column.source.as_str()));
        }
        relations
    }

    /// Reads the tables' shape again, now that it is locked; says whether it is as it was when it was planned.
    async fn refresh(&mut self, exported: &Exported) -> Result<bool> {
        let names: Vec<_> = self.streams.iter().map(|s| (s.info.namespace.clone(), s.info.name.clone())).collect();
        let tables = match catalog::load_tables(exported.client(), &names, self.effort.collapse_partitions).await {
            // One of them is gone; to plan anew tells which, and leaves the others alone.
            Err(error) if error.retry() == Retry::Never && self.effort.endless.is_some() => return Ok(false),
            tables => tables?,
        };
        for (stream, table) in self.streams.iter_mut().zip(tables) {
            if table.columns != stream.info.columns || table.oid != stream.info.oid {
                tracing::info!("{} was changed while the sync was starting", stream.plan.id);
                return Ok(false);
            }
            match Arc::get_mut(stream) {
                Some(stream) => stream.info = table,
                None => return Err(Error::bug("a reader of an earlier attempt is still running")),
            }
        }
        Ok(true)
    }

    /// Reports failed streams; without any, forgets the loads, which are then all committed and of one instant.
    fn finish(&self) -> Result<()> {
        let meters = self.meters();
        let failures: Vec<_> = meters.iter().filter_map(|meter| Some((&meter.id, meter.failure()?))).collect();
        let Some((id, (kind, reason, hint))) = failures.first() else {
            return self.keeper.commit(|state| {
                for stream in &self.streams {
                    state.lakeward.loads.remove(&stream.plan.id);
                    state.set_chunks(&stream.info.namespace, &stream.info.name, Vec::new());
                }
            });
        };
        let error = Error::new(
            *kind,
            match failures.len() {
                1 => format!("stream {id} failed: {reason}"),
                n => format!("{n} of {} streams failed, {id} first: {reason}", meters.len()),
            },
        );
        Err(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}

/// Following that goes on by itself, on a thread that is not the one that waits for it. It ends when this is dropped.
struct Following(JoinHandle<Result<Ended>>);

impl Following {
    async fn outcome(&mut self) -> Result<Ended> {
        match (&mut self.0).await {
            Ok(outcome) => outcome,
            Err(panic) => Err(Error::bug(format!("the reader of the log stopped: {panic}"))),
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn told(endless: Option<&Endless>) {
    match endless {
        Some(Endless { stop, .. }) => stop.told().await,
        None => std::future::pending().await,
    }
}
