//! The top of the tree, and how its end is learned.

use super::ordered::{ChildSpec, Ordered};
use super::{Backoff, Budget, Env, Exit, end, exit_of};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::time::Duration;
use tokio::sync::oneshot;

/// The root: rest-for-one over `children`, started in this order and stopped in the reverse.
pub struct RootSpec {
    pub name: &'static str,
    pub children: Vec<ChildSpec>,
    /// Restarts of all children together (a restart takes the later children along and counts once).
    pub budget: Budget,
    pub backoff: Backoff,
    pub env: Env,
}

/// A running tree. Dropping it does not stop it.
#[derive(Debug)]
pub struct Root {
    guardian: ActorCell,
    root: ActorCell,
    exit: oneshot::Receiver<Result<(), String>>,
}

impl Root {
    /// Starts all children; returns when the last one's `pre_start` is through. Errors: the first that failed, after
    /// those before it were stopped.
    pub async fn start(spec: RootSpec) -> Result<Root, String> {
        let (tell, exit) = oneshot::channel();
        let (named, named_here) = oneshot::channel();
        let started = Actor::spawn(None, Guardian, (spec, named, tell)).await;
        let (guardian, _) = started.map_err(|why| why.to_string())?;
        let root = named_here.await.map_err(|_| "the root ended at once".to_owned())?;
        Ok(Root { guardian: guardian.get_cell(), root, exit })
    }

    /// Waits for the end: `Ok` when it was stopped, else why it failed (a budget used up, a panic). Then the process
    /// should exit non-zero.
    pub async fn ended(&mut self) -> Result<(), String> {
        match (&mut self.exit).await {
            Ok(exit) => exit,
            Err(_) => Err("the root was killed".to_owned()),
        }
    }

    /// Stops the children, last to first, and kills what is left after `deadline`.
    pub async fn stop(mut self, deadline: Duration) -> Result<(), String> {
        end(&self.root, deadline).await;
        let exit = self.ended().await;
        self.guardian.stop(None);
        exit
    }
}

/// Stands above the root only to see how it ends.
struct Guardian;

type Tell = oneshot::Sender<Result<(), String>>;

impl Actor for Guardian {
    type Msg = ();
    type State = Option<Tell>;
    type Arguments = (RootSpec, oneshot::Sender<ActorCell>, Tell);

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        (spec, named, tell): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let RootSpec { name, children, budget, backoff, env } = spec;
        let root = Ordered { name, budget, backoff, env };
        let (root, _) = Actor::spawn_linked(None, root, children, myself.get_cell()).await?;
        let _ = named.send(root.get_cell());
        Ok(Some(tell))
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<()>,
        event: SupervisionEvent,
        tell: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some((_, exit)) = exit_of(event) {
            let exit = match exit {
                Exit::Normal => Ok(()),
                Exit::Failure(why) => Err(why),
            };
            if let Some(tell) = tell.take() {
                let _ = tell.send(exit);
            }
            myself.stop(None);
        }
        Ok(())
    }
}
