//! The thread through which everything enters Python.
//!
//! Whoever asks for something posts a job and goes on; the thread holds the interpreter's lock only for the short
//! time that a job takes. What takes longer is left to the package's own threads, which report back.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;

use pyo3::prelude::*;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::interpreter;

type Job = Box<dyn FnOnce(Python<'_>) + Send>;

static JOBS: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

/// Run `job` in the door's thread, after all that were posted before. Does not wait.
pub(crate) fn post(job: impl FnOnce(Python<'_>) + Send + 'static) {
    let jobs = JOBS.get_or_init(open);
    // The thread never ends while its sender lives, which is forever.
    let _ = jobs.send(Box::new(job));
}

/// Run `job` with the package's module in the door's thread and wait for what it returns.
pub(crate) async fn call<T: Send + 'static>(
    job: impl FnOnce(&Bound<'_, PyModule>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    post(move |py| {
        let result = caught(|| interpreter::door(py).and_then(job));
        let _ = sender.send(result);
    });
    receiver.await.unwrap_or_else(|_| Err(Error::Panic("the door's thread has ended".into())))
}

/// Let one of the package's threads do what takes time, and wait for it.
///
/// `submit` starts it and returns a `concurrent.futures.Future`, of whose result `read` makes the value.
pub(crate) async fn submit<T: Send + 'static>(
    loading: bool,
    submit: impl FnOnce(&Bound<'_, PyModule>) -> PyResult<Py<PyAny>> + Send + 'static,
    read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    let finish = move |future: &Bound<'_, PyAny>| {
        let py = future.py();
        let _ = sender.send(caught(|| {
            let result = future.call_method0("result").and_then(|value| read(&value));
            result.map_err(|error| Error::of(&error, py, loading))
        }));
    };
    call(move |module| {
        let py = module.py();
        let start = || {
            let callback = Done(Mutex::new(Some(Box::new(finish))));
            submit(module)?.call_method1(py, "add_done_callback", (callback,)).map(drop)
        };
        start().map_err(|error| Error::of(&error, py, loading))
    })
    .await?;
    receiver.await.unwrap_or_else(|_| Err(Error::Panic("nobody reported the end of a call".into())))
}

/// What a panic says.
pub(crate) fn caught<T>(function: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(function)).unwrap_or_else(|panic| Err(Error::Panic(text_of(&*panic))))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a text".into())
}

fn open() -> mpsc::Sender<Job> {
    let (sender, receiver) = mpsc::channel::<Job>();
    let work = move || {
        Python::initialize();
        for job in receiver {
            let _ = catch_unwind(AssertUnwindSafe(|| Python::attach(job)));
        }
    };
    thread::Builder::new().name("ostro-door".into()).spawn(work).expect("a thread can be started");
    sender
}

type Finish = Box<dyn FnOnce(&Bound<'_, PyAny>) + Send>;

/// A future's callback.
#[pyclass(frozen)]
struct Done(Mutex<Option<Finish>>);

#[pymethods]
impl Done {
    fn __call__(&self, future: &Bound<'_, PyAny>) {
        let finish = self.0.lock().ok().and_then(|mut finish| finish.take());
        if let Some(finish) = finish {
            finish(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_the_door_stays_open() {
        let error = pollster::block_on(call(|_| -> Result<()> { panic!("broken {}", "on purpose") })).unwrap_err();
        assert!(matches!(&error, Error::Panic(text) if text == "broken on purpose"), "{error}");
        assert_eq!(pollster::block_on(call(|_| Ok(3))).unwrap(), 3);
    }

    #[test]
    fn an_exception_of_another_package_keeps_its_name() {
        let divide = |module: &Bound<'_, PyModule>| {
            let function = module.py().eval(c"lambda: 1 / 0", None, None)?;
            Ok(module.getattr("workers")?.call_method1("submit", (function,))?.unbind())
        };
        let error = pollster::block_on(submit(false, divide, |_| Ok(()))).unwrap_err();
        assert!(matches!(error, Error::Inference(_)));
        assert_eq!(error.to_string(), "ZeroDivisionError: division by zero");
    }
}
