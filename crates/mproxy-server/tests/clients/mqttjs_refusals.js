// mqtt.js, refused now and then: tells what it was told, a line each. Usage: mqttjs_refusals.js HOST PORT 3|4|5

const { once } = require('node:events')
const mqtt = require('mqtt')

const [host, port, version] = process.argv.slice(2)
const NO = 'no/ACTION_REJECT'

function client(name, more) {
  return mqtt.connect({
    host,
    port: Number(port),
    protocolVersion: Number(version),
    protocolId: version === '3' ? 'MQIsdp' : 'MQTT',
    clientId: `js-${name}-${version}`,
    reconnectPeriod: 0,
    ...more,
  })
}

// Callbacks that get an error whose code is the packet's.
const publish = (it, topic, qos) =>
  new Promise((done) => it.publish(topic, 'x', { qos }, (error) => done(error ? error.code : 0)))
const subscribe = (it, filters) =>
  new Promise((done) => it.subscribe(filters, (error, granted, packet) => done([error, packet.granted])))

async function main() {
  const it = client('main')
  it.on('close', () => console.log('closed'))
  const [connack] = await once(it, 'connect')
  console.log('connected', connack.reasonCode ?? connack.returnCode)
  for (const qos of [0, 1, 2]) {
    console.log('published', qos, await publish(it, NO, qos))
  }
  let [, codes] = await subscribe(it, { [NO]: { qos: 1 }, 'js/yes': { qos: 2 }, [`${NO}/#`]: { qos: 0 } })
  console.log('subscribed', ...codes)
  ;[, codes] = await subscribe(it, { [NO]: { qos: 2 } })
  console.log('subscribed', ...codes)
  // It is as good as before: what is allowed comes back, from the same connection.
  for (const qos of [0, 1, 2]) {
    const [[topic, , packet]] = await Promise.all([once(it, 'message'), publish(it, 'js/yes', qos)])
    console.log('received', topic, packet.qos)
  }
  await it.endAsync()

  const refused = client('refused', { username: NO })
  const [error] = await once(refused, 'error')
  console.log('refused', error.code)
  refused.end(true)
}

setTimeout(() => { console.log('too late'); process.exit(1) }, 20000).unref()
main().catch((error) => { console.log(error); process.exit(1) })
