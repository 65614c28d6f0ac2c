//! Commits of several tables in one request, so that readers see all of them change at one instant.
//!
//! REST catalogs offer it (`POST /v1/{prefix}/transactions/commit`): all tables meet their requirements and change, or none does. A table
//! that cannot be committed for a reason of its own is left out and reported. A catalog that refuses such a request after all gets each
//! table by itself, unless the configuration demands one commit.

use super::IcebergTable;
use super::catalog::{Catalog, CommitError, TableName};
use super::publish::{Publication, Request};
use super::stage::IcebergPart;
use crate::{Commit, Error, Joint, Kind, Result};
use futures::future::join_all;

/// Tables that are prepared and looked at at the same time: each waits for a store most of the time.
const AT_ONCE: usize = 16;

/// One table on its way.
struct Member<'t> {
    table: &'t mut IcebergTable,
    parts: Vec<IcebergPart>,
    how: Commit,
    /// Until the end.
    open: Option<Publication>,
    outcome: Result<()>,
}

impl<'t> Member<'t> {
    async fn new(joint: Joint<'t, IcebergTable>) -> Self {
        let Joint { table, parts, token, how } = joint;
        let (open, outcome) = match table.publication(&parts, token, how).await {
            Ok(open) => (open, Ok(())),
            Err(error) => (None, Err(table.committing(error))),
        };
        Self { table, parts, how, open, outcome }
    }

    /// The end, once `done` is no longer "not yet".
    async fn advance(&mut self, done: Result<bool>) {
        match done {
            Ok(false) => {}
            Ok(true) => {
                self.table.published(&self.parts, self.how).await;
                self.open = None;
            }
            Err(error) => {
                self.outcome = Err(self.table.committing(error));
                self.open = None;
            }
        }
    }

    async fn request(&mut self) -> Option<(TableName, Request)> {
        match self.open.as_mut()?.request(self.table).await {
            Ok(request) => Some((self.table.name.clone(), request)),
            Err(error) => {
                self.advance(Err(error)).await;
                None
            }
        }
    }

    async fn answered(&mut self, outcome: &Result<(), CommitError>) {
        let Some(open) = &mut self.open else { return };
        let answer = match outcome {
            // The answer has no tables in it.
            Ok(()) => match self.table.catalog.load(&self.table.name).await {
                Ok(Some(loaded)) if open.is_in(&loaded) => Ok(loaded),
                Ok(_) => Err(CommitError::Unknown(Error::new(Kind::Storage, "the catalog does not show the commit that it confirmed"))),
                Err(error) => Err(CommitError::Unknown(error)),
            },
            Err(CommitError::Conflict(error)) => Err(CommitError::Conflict(error.again())),
            Err(CommitError::Unknown(error)) => Err(CommitError::Unknown(error.again())),
            Err(CommitError::Failed(error)) => Err(CommitError::Failed(error.again())),
        };
        let done = open.answered(self.table, answer).await;
        self.advance(done).await;
    }

    async fn alone(&mut self) {
        let Some(open) = self.open.take() else { return };
        let done = self.table.publish(open).await;
        self.advance(done.map(|()| true)).await;
    }
}

/// The outcomes are in the order of the group.
pub(super) async fn commit(group: Vec<Joint<'_, IcebergTable>>) -> Vec<Result<()>> {
    let Some(first) = group.first() else { return Vec::new() };
    let (catalog, demanded) = (first.table.catalog.clone(), first.table.joins == Some(true));
    let mut members = Vec::with_capacity(group.len());
    for joint in group {
        members.push(Member::new(joint).await);
    }
    if let Err(refused) = ask(&catalog, &mut members).await {
        if !demanded {
            tracing::warn!("the catalog does not take the tables in one commit: {refused}; each is committed by itself");
        }
        let refused = Err(CommitError::Failed(refused));
        for some in members.chunks_mut(AT_ONCE) {
            match demanded {
                true => drop(join_all(some.iter_mut().map(|member| member.answered(&refused))).await),
                false => drop(join_all(some.iter_mut().map(Member::alone)).await),
            }
        }
    }
    members.into_iter().map(|member| member.outcome).collect()
}

/// Asks until nothing is open; an error when the catalog refuses to.
async fn ask(catalog: &Catalog, members: &mut [Member<'_>]) -> Result<()> {
    loop {
        let mut requests = Vec::with_capacity(members.len());
        for some in members.chunks_mut(AT_ONCE) {
            requests.extend(join_all(some.iter_mut().map(Member::request)).await.into_iter().flatten());
        }
        if requests.is_empty() {
            return Ok(());
        }
        tracing::info!("{} tables in one commit", requests.len());
        let outcome = match catalog.commit_together(requests).await {
            Err(CommitError::Failed(refused)) => return Err(refused),
            outcome => outcome,
        };
        for some in members.chunks_mut(AT_ONCE) {
            join_all(some.iter_mut().map(|member| member.answered(&outcome))).await;
        }
    }
}
