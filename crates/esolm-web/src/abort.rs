//! Cancelling calls through a JavaScript `AbortSignal`.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use esolm::Error;
use js_sys::Function;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::Failure;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(typescript_type = "AbortSignal")]
    pub type AbortSignal;

    #[wasm_bindgen(method, getter)]
    fn aborted(this: &AbortSignal) -> bool;
    #[wasm_bindgen(method, js_name = addEventListener)]
    fn listen(this: &AbortSignal, event: &str, listener: &Function);
    #[wasm_bindgen(method, js_name = removeEventListener)]
    fn unlisten(this: &AbortSignal, event: &str, listener: &Function);
}

/// Drops a call when `signal` is aborted; the model then ends it after the current pass.
///
/// # Errors
/// Those of the call, or [`Error::Stopped`].
pub async fn unless_aborted<T>(
    signal: Option<AbortSignal>,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    let Some(signal) = signal else {
        return Ok(call.await?);
    };
    if signal.aborted() {
        return Err(Error::Stopped.into());
    }
    let (sender, abort) = async_channel::bounded::<Infallible>(1);
    let close = Closure::<dyn Fn()>::new(move || {
        sender.close();
    });
    let listener: &Function = close.as_ref().unchecked_ref();
    signal.listen("abort", listener);
    let (mut call, mut abort) = (pin!(call), pin!(abort.recv()));
    let result = poll_fn(|context| match abort.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(Err(Error::Stopped)),
        Poll::Pending => call.as_mut().poll(context),
    })
    .await;
    signal.unlisten("abort", listener);
    Ok(result?)
}
