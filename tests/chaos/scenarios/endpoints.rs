//! Receivers that misbehave, and a name that cannot be resolved for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider::domain::delivery::FailReason;
use serde_json::json;

use crate::Form;
use crate::figures::Figures;
use crate::process::pass;
use crate::publisher::Plan;
use crate::receivers::Act;
use crate::world::{World, secret};

/// Each endpoint answers its first attempts in its own bad way, and well afterwards.
pub(crate) fn bad(form: Form) -> Figures {
    let acts: [(&str, Act); 8] = [
        ("hang", Act::Hang(Duration::from_secs(10))),
        ("reset in the body", Act::ResetMidBody),
        ("a byte a second", Act::Drip),
        ("100 MB", Act::Huge),
        ("early close", Act::CloseIdle(Duration::from_millis(1))),
        ("garbage", Act::Garbage),
        ("503", Act::Answer(503, Duration::ZERO)),
        ("closed at once", Act::Hang(Duration::ZERO)),
    ];
    let mut world = World::new(acts.len() + 1, &[]);
    let retries = ["--retry-schedule", "500ms,1s", "--breaker-failures", "0"];
    world.serve_with(["--lease", "2s", "--request-timeout", "2s"]);
    world.launch.extra.extend(retries.map(str::to_owned));
    for (number, (what, act)) in acts.iter().enumerate() {
        let act = *act;
        match *what {
            // A hundred megabytes at each event would be a test of this machine's memory bandwidth.
            "100 MB" => world.behave(number, move |asked| {
                if asked.event % 20 == 0 { act } else { Act::Answer(200, Duration::ZERO) }
            }),
            // Lanes shrink under timeouts and 503: each event twice through the smallest would take an hour.
            "hang" | "a byte a second" | "503" => world.behave(number, move |asked| {
                if asked.nth == 1 && asked.event % 10 == 0 { act } else { Act::Answer(200, Duration::ZERO) }
            }),
            "early close" => world.behave(number, move |_| act),
            _ => world.behave(
                number,
                move |asked| {
                    if asked.nth == 1 { act } else { Act::Answer(200, Duration::ZERO) }
                },
            ),
        }
    }
    world.start_replicas(2);
    let count = form.pick(1_000, 200);
    world.publish(Plan { count, ..world.plan(100) }).join();
    let mut figures = Figures::of(world.rest());
    for (number, (what, _)) in acts.iter().enumerate() {
        let requests = world.ledger.arrivals_at(number);
        figures = figures.fault(requests, &format!("requests at '{what}'"));
    }
    let good = world.ledger.arrivals_at(acts.len());
    let early = world.ledger.arrivals_at(4);
    figures
        .note(format!("{early} requests for {count} events where idle connections are closed early"))
        .promise(good == count, format!("{good} requests for {count} events at the good endpoint"))
}

/// A name server of our own says that the name does not exist, then answers nothing, then says the address. Needs
/// the right to mount over `/etc/resolv.conf` in a namespace of its own.
pub(crate) fn dns(_form: Form) -> Figures {
    let mut world = World::new(1, &[]);
    world.serve_with(["--lease", "2s", "--request-timeout", "3s", "--retry-schedule", "1s"]);
    let answers = Arc::new(AtomicBool::new(false));
    let asked = name_server(&world, &answers);
    let resolv = world.directory.join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n").expect("a file");
    let mount = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolv.display());
    world.launch.prefix = ["unshare", "--mount", "sh", "-c", &mount, "sh"].map(str::to_owned).to_vec();
    world.start_replicas(1);
    let url = format!("http://receiver.chaos.test:{}/0", world.receivers.port);
    let config = world.endpoints[0].config.to_string();
    let body =
        json!({ "id": config, "url": url, "events": [crate::publisher::EVENT], "secret": secret(0, 0) });
    let mut body = body;
    body["maxRetries"] = json!(10);
    crate::admin::put_configs(world.replicas[0].admin_port, &world.token, &body);
    pass(Duration::from_millis(500));
    world.publish(Plan { count: 500, ..world.plan(500) }).join();
    pass(Duration::from_secs(3));
    assert_eq!(world.ledger.book().arrivals.len(), 0, "the name does not exist yet");
    let failed = asked.load(Ordering::Relaxed);
    answers.store(true, Ordering::Relaxed);
    world.may_fail(0, &[FailReason::Exhausted]);
    let figures = Figures::of(world.rest());
    let exhausted = figures.verdict.failed.values().sum::<usize>();
    figures
        .fault(failed, "questions answered with NXDOMAIN")
        .promise(exhausted == 0, format!("{exhausted} deliveries used their retries up"))
}

/// Answers every question with NXDOMAIN, and with 127.0.0.1 once `answers`; counts the questions.
fn name_server(world: &World, answers: &Arc<AtomicBool>) -> Arc<std::sync::atomic::AtomicUsize> {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (answers, count) = (Arc::clone(answers), Arc::clone(&asked));
    let socket = world
        .runtime
        .block_on(tokio::net::UdpSocket::bind("127.0.0.53:53"))
        .expect("port 53 on 127.0.0.53 can be had (needs root)");
    world.runtime.spawn(async move {
        let mut buffer = [0_u8; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::Relaxed);
            let reply = dns_reply(&buffer[..length], answers.load(Ordering::Relaxed));
            let _ = socket.send_to(&reply, from).await;
        }
    });
    asked
}

/// A reply by RFC 1035 section 4.1: the question again, and one A record (or none, for other types).
fn dns_reply(question: &[u8], answers: bool) -> Vec<u8> {
    // The question's end: labels up to the empty one, then type and class.
    let mut at = 12;
    while question.get(at).is_some_and(|length| *length > 0) {
        at += usize::from(question[at]) + 1;
    }
    let end = (at + 5).min(question.len());
    let is_a = question.get(at + 1..at + 3) == Some(&[0, 1]);
    let with_answer = answers && is_a;
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, if answers { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(with_answer), 0, 0, 0, 0]);
    reply.extend(&question[12..end]);
    if with_answer {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 0, 0, 1]);
    }
    reply
}
