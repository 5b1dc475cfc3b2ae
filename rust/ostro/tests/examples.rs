//! The programs of `examples/` as their users run them, and what they say where the Python package is missing.

#[path = "door/models.rs"]
#[allow(dead_code, reason = "these tests load no models themselves")]
mod models;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use models::{DEMO, gguf, picture_path, repository};

/// An example's program, which Cargo has built beside this one.
fn example(name: &str) -> Command {
    let own = std::env::current_exe().expect("tests are programs");
    let folder = own.ancestors().nth(2).expect("tests lie in target/<profile>/deps").join("examples");
    let mut command = Command::new(folder.join(name));
    command.env("RUST_BACKTRACE", "0").env("HF_HUB_OFFLINE", "1").env_remove("OSTRO_PYTHON_PATH");
    command
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ostro-examples-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

struct Ran {
    success: bool,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().expect("the example is built");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    Ran { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn succeeds(command: &mut Command) -> (String, String) {
    let ran = run(command);
    assert!(ran.success, "{}{}", ran.stdout, ran.stderr);
    (ran.stdout, ran.stderr)
}

fn fails(command: &mut Command) -> String {
    let ran = run(command);
    assert!(!ran.success, "{}{}", ran.stdout, ran.stderr);
    ran.stderr
}

/// Serves the demo's picture to everybody, on a port of its own.
fn picture_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let picture = fs::read(picture_path()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", picture.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&picture).unwrap();
        }
    });
    format!("http://{address}/picture.png")
}

fn is_the_page_s_answer(stdout: &str, stderr: &str) {
    let answer = stdout.trim_end();
    assert!(answer.starts_with("A large pink star ") && answer.ends_with(" on a black background."), "{answer}");
    for speed in ["avg_prompt_tok_per_sec", "avg_compl_tok_per_sec"] {
        let line = stderr.lines().find(|line| line.contains(&format!("response.usage.{speed} = ")));
        let number = line.and_then(|line| line.rsplit(' ').next()).and_then(|number| number.parse::<f32>().ok());
        assert!(number.is_some_and(|number| number > 0.0), "{stderr}");
    }
}

#[test]
fn the_page_s_program_to_the_letter() {
    let place = folder("page");
    let model = place.join("google/gemma-3-12b-it");
    fs::create_dir_all(&model).unwrap();
    for entry in fs::read_dir(repository().join("python/ostro/demo_model")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
        }
    }
    let (stdout, stderr) = succeeds(example("page").current_dir(&place).env("PAGE_IMAGE", picture_server()));
    is_the_page_s_answer(&stdout, &stderr);
    fs::remove_dir_all(place).unwrap();
}

#[test]
fn the_page_s_program_is_the_readme_s() {
    let program = include_str!("../examples/page/program.rs");
    assert!(include_str!("../README.md").contains(program));
    assert!(fs::read_to_string(repository().join("docs/rust.md")).unwrap().contains(program));
}

#[test]
fn vision() {
    let (stdout, stderr) = succeeds(example("vision").args([DEMO, &picture_server()]));
    is_the_page_s_answer(&stdout, &stderr);
    let (same, _) = succeeds(example("vision").arg(DEMO).arg(picture_path()));
    assert_eq!(same, stdout);
    let error = fails(example("vision").arg(DEMO).arg("/no/such/picture.png"));
    assert!(error.contains("/no/such/picture.png"), "{error}");
}

#[test]
fn chat() {
    let (stdout, _) = succeeds(example("chat").arg(gguf()));
    assert!(stdout.starts_with("> What is the capital of France?\n"), "{stdout}");
    assert!(stdout.contains("\n> And what is it known for?\n"), "{stdout}");
}

#[test]
fn streaming() {
    let (stdout, _) = succeeds(example("streaming").arg(gguf()));
    assert!(stdout.lines().last().unwrap().starts_with("60 tokens, "), "{stdout}");
}

#[test]
fn isq() {
    let (stdout, stderr) = succeeds(example("isq").args([DEMO, "q8_0", "8"]));
    let answers: Vec<_> = stdout.lines().map(|line| line.split_once(": ").unwrap()).collect();
    assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), ["q8_0", "8"], "{stdout}{stderr}");
    assert_eq!(answers[0].1, answers[1].1);
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn post(port: u16, body: &str) -> String {
    let length = body.len();
    http(port, &format!("POST /ask HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"))
}

#[test]
fn axum() {
    let mut server = Served(example("axum").args([DEMO, "0"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(server.0.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let port = line.trim_end().rsplit(':').next().unwrap().parse().unwrap();

    let answer = post(port, "What is two plus two?");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("transfer-encoding: chunked"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    let answer = post(port, &"word ".repeat(20_000));
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("tokens, limit"), "{answer}");
    let answer = http(port, "GET /load HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with(r#"{"running":0,"waiting":0}"#), "{answer}");
}

/// A virtual environment without packages.
fn empty_environment(name: &str, version: &str) -> PathBuf {
    let environment = folder(name);
    fs::create_dir_all(environment.join("lib").join(format!("python{version}")).join("site-packages")).unwrap();
    environment
}

fn in_environment(environment: impl AsRef<OsStr>) -> Command {
    let mut command = example("chat");
    command.arg(DEMO).env("VIRTUAL_ENV", environment);
    command
}

fn version() -> String {
    models::python("import sys; print(f'{sys.version_info.major}.{sys.version_info.minor}')")
}

#[test]
fn a_missing_package() {
    let environment = empty_environment("missing", &version());
    let error = fails(&mut in_environment(&environment));
    let python = environment.join("bin/python");
    assert!(error.contains("No module named 'ostro'"), "{error}");
    assert!(error.contains(&format!("run `{} -m pip install ostro`", python.display())), "{error}");
    // The package may also be somewhere else.
    let packages = models::python("import ostro, pathlib; print(pathlib.Path(ostro.__file__).parents[1])");
    let dependencies = models::python("import site; print(site.getsitepackages()[0])");
    let paths = std::env::join_paths([packages, dependencies]).unwrap();
    succeeds(in_environment(&environment).env("OSTRO_PYTHON_PATH", paths));
    fs::remove_dir_all(environment).unwrap();
}

#[test]
fn an_old_package() {
    let environment = empty_environment("old", &version());
    let package = environment.join("lib").join(format!("python{}", version())).join("site-packages/ostro");
    let write = |file: &str, text: &str| fs::write(package.join(file), text).unwrap();
    fs::create_dir_all(&package).unwrap();
    write("__init__.py", "");
    let error = fails(&mut in_environment(&environment));
    assert!(error.contains(&format!("{} is too old", package.join("__init__.py").display())), "{error}");
    assert!(error.contains("-m pip install --upgrade ostro`"), "{error}");
    write("rust_door.py", "INTERFACE = 999");
    let error = fails(&mut in_environment(&environment));
    assert!(error.contains("is newer than this program understands"), "{error}");
    write("rust_door.py", "import nonsense_that_is_missing");
    let error = fails(&mut in_environment(&environment));
    assert!(error.contains("nonsense_that_is_missing"), "{error}");
    fs::remove_dir_all(environment).unwrap();
}

#[test]
fn an_environment_of_another_python() {
    let environment = empty_environment("other", "3.1");
    let error = fails(&mut in_environment(&environment));
    let wanted = format!("activate one of Python {}, or build the program again with PYO3_PYTHON=", version());
    assert!(error.contains(&wanted), "{error}");
    assert!(error.contains(&Path::new("bin/python").display().to_string()), "{error}");
    fs::remove_dir_all(environment).unwrap();
}
