//! Which Python runs inside the program, and where its packages are.
//!
//! The interpreter itself is chosen when the program is built: `PYO3_PYTHON`, else the active virtual
//! environment's, else `python3`. Its packages are chosen when the program runs:
//!
//! 1. the folders of `OSTRO_PYTHON_PATH`, in front of all others;
//! 2. those of the active virtual environment (`VIRTUAL_ENV`);
//! 3. without one, the interpreter's own, and then those of the environment that the program was built with.

use std::env;
use std::path::{Path, PathBuf};

use pyo3::exceptions::PyModuleNotFoundError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::error::{Error, Result};

/// What `ostro.rust_door.INTERFACE` must be.
const INTERFACE: u32 = 1;

static DOOR: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// The module `ostro.rust_door`; [`Error::Setup`] says what to run if it cannot be had.
pub(crate) fn door(py: Python<'_>) -> Result<&Bound<'_, PyModule>> {
    DOOR.get_or_try_init(py, || connect(py).map(Bound::unbind)).map(|module| module.bind(py))
}

fn connect(py: Python<'_>) -> Result<Bound<'_, PyModule>> {
    let setup = |error: PyErr| Error::Setup(format!("the Python inside this program cannot be set up: {error}"));
    let version: (u8, u8) = (py.version_info().major, py.version_info().minor);
    let environment = env::var_os("VIRTUAL_ENV").filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(environment) = &environment {
        activate(py, environment, version)?;
    }
    let paths = env::var_os("OSTRO_PYTHON_PATH").unwrap_or_default();
    let folders: Vec<_> = env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect();
    prepend(py, folders).map_err(setup)?;
    if environment.is_none() && !is_importable(py) {
        // Where the program was built, a virtual environment need not be active.
        if let Some(built) = built_with().filter(|path| site_packages(path, version).is_dir()) {
            activate(py, &built, version)?;
        }
    }
    check(py, version, environment.as_deref())
}

/// Put a virtual environment's packages in front, as its interpreter would.
fn activate(py: Python<'_>, environment: &Path, version: (u8, u8)) -> Result<()> {
    let (major, minor) = version;
    let packages = site_packages(environment, version);
    if !packages.is_dir() {
        return Err(Error::Setup(format!(
            "this program runs Python {major}.{minor}, and the active virtual environment {} has no packages for it \
             (no {}): activate one of Python {major}.{minor}, or build the program again with PYO3_PYTHON={}",
            environment.display(),
            packages.display(),
            environment.join(python_name()).display(),
        )));
    }
    let added = || -> PyResult<()> {
        let before = sys_path(py)?.len();
        py.import("site")?.call_method1("addsitedir", (packages.as_os_str(),))?;
        let path = sys_path(py)?;
        let folders = path.get_slice(before, path.len());
        path.del_slice(before, path.len())?;
        path.set_slice(0, 0, &folders)?;
        py.import("sys")?.setattr("prefix", environment.as_os_str())
    };
    added().map_err(|error| Error::Setup(format!("{} cannot be read: {error}", packages.display())))
}

fn prepend(py: Python<'_>, folders: Vec<PathBuf>) -> PyResult<()> {
    let path = sys_path(py)?;
    for folder in folders.into_iter().rev() {
        path.insert(0, folder.as_os_str())?;
    }
    Ok(())
}

fn check<'py>(py: Python<'py>, (major, minor): (u8, u8), environment: Option<&Path>) -> Result<Bound<'py, PyModule>> {
    let python = environment
        .map_or_else(|| format!("python{major}.{minor}"), |path| path.join(python_name()).display().to_string());
    let package = py.import("ostro").map_err(|error| {
        if !error.is_instance_of::<PyModuleNotFoundError>(py) {
            return Error::Setup(format!("the Python package ostro cannot be imported: {error}"));
        }
        Error::Setup(format!(
            "the Python package ostro cannot be imported ({error}): run `{python} -m pip install ostro`, \
             or activate the virtual environment that has it (this program runs Python {major}.{minor})"
        ))
    })?;
    let too_old = |found: &str| {
        let place = package.filename().map_or_else(|_| "an unknown place".into(), |name| name.to_string());
        Error::Setup(format!(
            "the Python package ostro in {place} is {found} for this program (crate ostro {}): \
             run `{python} -m pip install --upgrade ostro`",
            env!("CARGO_PKG_VERSION")
        ))
    };
    let door = py.import("ostro.rust_door").map_err(|error| {
        let missing = error.value(py).getattr("name").and_then(|name| name.extract::<String>());
        if missing.is_ok_and(|name| name == "ostro.rust_door") {
            return too_old("too old");
        }
        Error::Setup(format!("the Python package ostro cannot be imported: {error}"))
    })?;
    match door.getattr("INTERFACE").and_then(|number| number.extract::<u32>()) {
        Ok(INTERFACE) => Ok(door),
        Ok(number) if number > INTERFACE => Err(Error::Setup(format!(
            "the Python package ostro is newer than this program understands (crate ostro {}): \
             update the crate, or run `{python} -m pip install ostro=={}`",
            env!("CARGO_PKG_VERSION"),
            env!("CARGO_PKG_VERSION"),
        ))),
        _ => Err(too_old("too old")),
    }
}

fn is_importable(py: Python<'_>) -> bool {
    let spec = py.import("importlib.util").and_then(|util| util.call_method1("find_spec", ("ostro",)));
    spec.is_ok_and(|spec| !spec.is_none())
}

fn sys_path(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    Ok(py.import("sys")?.getattr("path")?.cast_into()?)
}

fn site_packages(environment: &Path, (major, minor): (u8, u8)) -> PathBuf {
    if cfg!(windows) {
        return environment.join("Lib").join("site-packages");
    }
    environment.join("lib").join(format!("python{major}.{minor}")).join("site-packages")
}

fn python_name() -> &'static str {
    if cfg!(windows) { "Scripts\\python.exe" } else { "bin/python" }
}

/// The environment of the interpreter that the build asked for its settings.
fn built_with() -> Option<PathBuf> {
    Path::new(option_env!("OSTRO_BUILD_PYTHON")?).parent()?.parent().map(Path::to_path_buf)
}
