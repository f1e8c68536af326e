//! Yielding to the browser between passes, and to a caller who may give a load up.

#[cfg(not(target_family = "wasm"))]
use std::future::{Future, poll_fn};
#[cfg(not(target_family = "wasm"))]
use std::pin::pin;
#[cfg(not(target_family = "wasm"))]
use std::task::Poll;

/// Lets the browser's event loop run, so that the page repaints and messages arrive. A no-op natively.
#[cfg(not(target_family = "wasm"))]
pub async fn turn() {}

#[cfg(target_family = "wasm")]
pub use browser::turn;

/// Returns to whoever polls once, so that loading can be given up here ([`unless`]).
#[cfg(not(target_family = "wasm"))]
pub async fn pause() {
    let mut has_paused = false;
    poll_fn(|context| match std::mem::replace(&mut has_paused, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// In a browser, loading is given up by dropping it.
#[cfg(target_family = "wasm")]
pub async fn pause() {}

/// The result of `work`; `None` if `is_given_up` says so at the beginning or at one of its pauses, where it is dropped.
#[cfg(not(target_family = "wasm"))]
pub async fn unless<T>(is_given_up: impl Fn() -> bool, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| match is_given_up() {
        true => Poll::Ready(None),
        false => work.as_mut().poll(context).map(Some),
    })
    .await
}

#[cfg(target_family = "wasm")]
mod browser {
    use js_sys::{Function, Promise};
    use wasm_bindgen::JsValue;
    use wasm_bindgen::prelude::wasm_bindgen;
    use wasm_bindgen_futures::JsFuture;

    #[wasm_bindgen]
    extern "C" {
        type MessageChannel;
        #[wasm_bindgen(constructor)]
        fn new() -> MessageChannel;
        #[wasm_bindgen(method, getter)]
        fn port1(this: &MessageChannel) -> MessagePort;
        #[wasm_bindgen(method, getter)]
        fn port2(this: &MessageChannel) -> MessagePort;

        type MessagePort;
        #[wasm_bindgen(method, setter)]
        fn set_onmessage(this: &MessagePort, listener: &Function);
        #[wasm_bindgen(method, js_name = postMessage)]
        fn post(this: &MessagePort, message: &JsValue);
        #[wasm_bindgen(method)]
        fn close(this: &MessagePort);
    }

    /// See the native version. A message to oneself arrives without the delay that timers have.
    pub async fn turn() {
        let channel = MessageChannel::new();
        let received = Promise::new(&mut |resolve, _| channel.port1().set_onmessage(&resolve));
        channel.port2().post(&JsValue::NULL);
        // Nothing ever rejects this promise.
        let _ = JsFuture::from(received).await;
        channel.port1().close();
    }
}
