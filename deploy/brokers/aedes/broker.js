// aedes over TCP and WebSocket:
//
//     node broker.js 1884 8884
import { createServer } from "node:net";
import { Aedes } from "aedes";
import { WebSocketServer, createWebSocketStream } from "ws";

const [tcp, webSocket] = process.argv.slice(2).map(Number);
const broker = await Aedes.createBroker();
createServer(broker.handle).listen(tcp, "127.0.0.1");
new WebSocketServer({ host: "127.0.0.1", port: webSocket }).on("connection", (socket, request) => {
  broker.handle(createWebSocketStream(socket), request);
});
