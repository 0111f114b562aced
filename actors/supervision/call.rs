//! Asking an actor. Every question has a deadline; there is no way to ask without one.

use ractor::rpc::CallResult;
use ractor::{ActorRef, Message, RpcReplyPort};
use std::time::Duration;

/// Why there is no answer. The difference matters: after `NotSent` certainly nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The actor had ended (or is ending): the message was not taken.
    #[error("the actor is gone")]
    NotSent,
    /// The actor ended, or dropped the question, after taking it: maybe done.
    #[error("the actor ended without an answer")]
    Dropped,
    /// No answer in time: maybe done, maybe yet to be done.
    #[error("no answer within the deadline")]
    Deadline,
}

impl CallError {
    /// Can the same question be asked again without knowing whether it is repeatable?
    pub fn certainly_not_done(self) -> bool {
        self == CallError::NotSent
    }
}

/// Sends the message that `question` makes around the reply port and waits for the reply.
pub async fn call_with_deadline<M: Message, R: Send + 'static>(
    actor: &ActorRef<M>,
    deadline: Duration,
    question: impl FnOnce(RpcReplyPort<R>) -> M,
) -> Result<R, CallError> {
    match actor.call(question, Some(deadline)).await {
        Ok(CallResult::Success(reply)) => Ok(reply),
        Ok(CallResult::SenderError) => Err(CallError::Dropped),
        Ok(CallResult::Timeout) => Err(CallError::Deadline),
        Err(_) => Err(CallError::NotSent),
    }
}
