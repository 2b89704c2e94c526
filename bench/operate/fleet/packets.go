package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// The packets that are spoken here, by their first four bits.
const (
	connect    = 1
	connack    = 2
	publish    = 3
	puback     = 4
	pubrec     = 5
	pubrel     = 6
	pubcomp    = 7
	subscribe  = 8
	suback     = 9
	disconnect = 14
)

// How long anybody may take to answer a CONNECT or a SUBSCRIBE, or to take a packet.
const patience = 15 * time.Second

// How long a session outlasts its connection, in seconds.
const sessionExpiry = 600

// link is a connection whose CONNECT was accepted.
type link struct {
	net.Conn
	from    *bufio.Reader
	v5      bool
	present bool
	body    []byte
}

type login struct {
	target, id string
	v5, keep   bool
	address    net.Addr
}

// enter connects, and goes on with the session that the broker has, if `keep` is set.
func enter(who login) (*link, error) {
	dialer := net.Dialer{Timeout: patience, LocalAddr: who.address}
	socket, err := dialer.Dial("tcp", who.target)
	if err != nil {
		return nil, err
	}
	l := &link{Conn: socket, from: bufio.NewReaderSize(socket, 512), v5: who.v5}
	if err := l.greet(who); err != nil {
		socket.Close()
		return nil, err
	}
	return l, nil
}

func (l *link) greet(who login) error {
	body := append(text(nil, "MQTT"), 4, 0)
	if who.v5 {
		body[6] = 5
	}
	if !who.keep {
		body[7] |= 2
	}
	body = binary.BigEndian.AppendUint16(body, 600)
	if who.v5 && who.keep {
		body = binary.BigEndian.AppendUint32(append(body, 5, 0x11), sessionExpiry)
	} else if who.v5 {
		body = append(body, 0)
	}
	if _, err := l.Write(packet(connect<<4, text(body, who.id))); err != nil {
		return err
	}
	first, answer, err := l.answer()
	if err != nil {
		return err
	}
	if first>>4 != connack || len(answer) < 2 || answer[1] != 0 {
		return fmt.Errorf("CONNECT was answered with %#x % x", first, answer)
	}
	l.present = answer[0]&1 == 1
	return nil
}

// subscribe to one filter with QoS 2.
func (l *link) subscribe(filter string) error {
	body := []byte{0xFF, 0xFF}
	if l.v5 {
		body = append(body, 0)
	}
	body = append(text(body, filter), 2)
	if _, err := l.Write(packet(subscribe<<4|2, body)); err != nil {
		return err
	}
	first, answer, err := l.answer()
	if err == nil && (first>>4 != suback || len(answer) == 0 || answer[len(answer)-1] != 2) {
		err = fmt.Errorf("SUBSCRIBE was answered with %#x % x", first, answer)
	}
	return err
}

// answer is the next packet, which has to come soon.
func (l *link) answer() (byte, []byte, error) {
	_ = l.SetReadDeadline(time.Now().Add(patience))
	defer func() { _ = l.SetReadDeadline(time.Time{}) }()
	return l.read()
}

// read returns the first byte of a packet and its body, which is good until the next call.
func (l *link) read() (byte, []byte, error) {
	first, err := l.from.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	size, err := binary.ReadUvarint(l.from)
	if err != nil {
		return 0, nil, err
	}
	if size > 1<<20 {
		return 0, nil, fmt.Errorf("a packet of %d bytes", size)
	}
	if uint64(cap(l.body)) < size {
		l.body = make([]byte, size)
	}
	l.body = l.body[:size]
	_, err = io.ReadFull(l.from, l.body)
	return first, l.body, err
}

// send writes a packet. Its error is left to the reader, who sees the end of the connection, too.
func (l *link) send(bytes []byte) {
	_ = l.SetWriteDeadline(time.Now().Add(patience))
	_, _ = l.Write(bytes)
}

func (l *link) acknowledge(kind byte, id uint16) {
	flags := byte(0)
	if kind == pubrel {
		flags = 2
	}
	l.send(packet(kind<<4|flags, binary.BigEndian.AppendUint16(nil, id)))
}

// stamped is a PUBLISH whose payload is its number, and the time at which it was first sent.
func stamped(topic string, qos byte, v5, again bool, id uint16, number uint64, at int64) []byte {
	body := text(nil, topic)
	if qos > 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	if v5 {
		body = append(body, 0)
	}
	body = binary.BigEndian.AppendUint64(body, number)
	body = binary.BigEndian.AppendUint64(body, uint64(at))
	body = append(body, make([]byte, 48)...)
	first := byte(publish<<4) | qos<<1
	if again {
		first |= 8
	}
	return packet(first, body)
}

// delivery is what a PUBLISH says.
type delivery struct {
	topic  string
	qos    byte
	id     uint16
	number uint64
	at     int64
}

func parse(first byte, body []byte, v5 bool) (d delivery, err error) {
	broken := fmt.Errorf("a PUBLISH that cannot be read: % x", body)
	if len(body) < 2 {
		return d, broken
	}
	at := 2 + int(binary.BigEndian.Uint16(body))
	d.qos = first >> 1 & 3
	if len(body) < at+20 {
		return d, broken
	}
	d.topic = string(body[2:at])
	if d.qos > 0 {
		d.id = binary.BigEndian.Uint16(body[at:])
		at += 2
	}
	if v5 {
		at += 1 + int(body[at])
	}
	if len(body) < at+16 {
		return d, broken
	}
	d.number = binary.BigEndian.Uint64(body[at:])
	d.at = int64(binary.BigEndian.Uint64(body[at+8:]))
	return d, nil
}

func text(to []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(s))), s...)
}

func packet(first byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}
