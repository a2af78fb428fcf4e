// A bot as a user of Node has it: buys one share again and again, connects anew when its socket closes, a JSON line for each trade.
// Host, port and client id come from its environment; it ends when its standard input does.

"use strict";

const { EventName, IBApi, OrderAction, OrderType } = require("@stoqey/ib");

const options = {
  host: process.env.IB_HOST,
  port: Number(process.env.IB_PORT),
  clientId: Number(process.env.IB_CLIENT_ID),
};
const apple = { symbol: "AAPL", secType: "STK", exchange: "SMART", currency: "USD" };
let clients = 0;

function connect() {
  const ib = new IBApi(options);
  let connected = false;
  let gone = false;

  function again() {
    if (!gone) {
      gone = true;
      ib.removeAllListeners();
      ib.on(EventName.error, () => {});
      ib.disconnect();
      setTimeout(connect, 200);
    }
  }

  function buy(orderId) {
    const order = { action: OrderAction.BUY, orderType: OrderType.MKT, totalQuantity: 1, account: process.env.IB_ACCOUNT, transmit: true };
    ib.placeOrder(orderId, apple, order);
  }

  ib.once(EventName.nextValidId, (orderId) => {
    connected = true;
    clients += 1;
    let next = orderId;
    ib.on(EventName.orderStatus, (id, status) => {
      if (id === next && status === "Filled") {
        console.log(JSON.stringify({ client_id: options.clientId, client: clients, status }));
        next += 1;
        setTimeout(() => gone || buy(next), 100);
      }
    });
    buy(next);
  });
  ib.on(EventName.disconnected, again);
  ib.on(EventName.error, (error, code) => {
    if (!connected || code === 502 || code === 504 || code === 1100) {
      console.error(String(error), code);
    }
    if (!connected) {
      again();
    }
  });
  ib.connect();
}

process.stdin.on("end", () => process.exit(0)).resume();
connect();
