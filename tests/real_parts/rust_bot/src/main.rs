//! A bot as a user of Rust has it: buys one share again and again, connects anew when its socket closes, a JSON line for each trade.
//! Host, port and client id come from its environment; it ends when its standard input does.

use std::io::Read;
use std::time::Duration;
use std::{env, thread};

use ibapi::client::blocking::Client;
use ibapi::contracts::Contract;
use ibapi::orders::{order_builder, Action, PlaceOrder};

fn main() {
    let address = format!("{}:{}", told("IB_HOST"), told("IB_PORT"));
    let client_id: i32 = told("IB_CLIENT_ID").parse().expect("IB_CLIENT_ID is a number");
    let account = env::var("IB_ACCOUNT").unwrap_or_default();
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut clients = 0;
    loop {
        match Client::connect(&address, client_id) {
            Ok(client) => {
                clients += 1;
                while trade(&client, &account, clients).is_some() {
                    thread::sleep(Duration::from_millis(100));
                }
            }
            Err(error) => eprintln!("{error}"),
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn told(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// One share; nothing when the client is of no use any more.
fn trade(client: &Client, account: &str, clients: i32) -> Option<()> {
    let apple = Contract::stock("AAPL").build();
    let mut order = order_builder::market_order(Action::Buy, 1.0);
    order.account = account.to_owned();
    let events = client.place_order(client.next_order_id(), &apple, &order).ok()?;
    while let Some(event) = events.next_timeout(Duration::from_secs(5)) {
        if let PlaceOrder::OrderStatus(status) = event {
            if status.status == "Filled" {
                println!(
                    "{{\"client_id\": {}, \"client\": {clients}, \"status\": \"{}\"}}",
                    client.client_id(),
                    status.status
                );
                return Some(());
            }
        }
    }
    None
}
