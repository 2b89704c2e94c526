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
	subscribe  = 8
	suback     = 9
	disconnect = 14
)

// How long anybody may take to answer what is not load.
const patience = 10 * time.Second

type link struct {
	net.Conn
	from *bufio.Reader
	v5   bool
	body []byte
}

type login struct {
	target, id, user, password string
	v5                         bool
}

// enter connects, and returns the reason code of the CONNACK; there is no link if it is not 0.
func enter(who login) (*link, byte, error) {
	socket, err := net.DialTimeout("tcp", who.target, patience)
	if err != nil {
		return nil, 0, err
	}
	body := append(text(nil, "MQTT"), 4, 2)
	if who.v5 {
		body[6] = 5
	}
	if who.user != "" {
		body[7] |= 0x80
	}
	if who.password != "" {
		body[7] |= 0x40
	}
	body = binary.BigEndian.AppendUint16(body, 60)
	if who.v5 {
		body = append(body, 0)
	}
	body = text(body, who.id)
	if who.user != "" {
		body = text(body, who.user)
	}
	if who.password != "" {
		body = text(body, who.password)
	}
	l := &link{Conn: socket, from: bufio.NewReaderSize(socket, 64<<10), v5: who.v5}
	if _, err := socket.Write(packet(connect<<4, body)); err != nil {
		return nil, 0, err
	}
	l.within(patience)
	first, answer, err := l.read()
	l.within(0)
	if err != nil {
		return nil, 0, err
	}
	if first>>4 != connack || len(answer) < 2 {
		return nil, 0, fmt.Errorf("%s: no CONNACK, but %#x", who.id, first)
	}
	if answer[1] != 0 {
		socket.Close()
		return nil, answer[1], nil
	}
	return l, 0, nil
}

// subscribe to one filter with QoS 1, and return the code in the SUBACK.
func (l *link) subscribe(filter string) (byte, error) {
	body := []byte{0, 1}
	if l.v5 {
		body = append(body, 0)
	}
	body = append(text(body, filter), 1)
	if _, err := l.Write(packet(subscribe<<4|2, body)); err != nil {
		return 0, err
	}
	l.within(patience)
	defer l.within(0)
	first, answer, err := l.read()
	if err != nil {
		return 0, err
	}
	if first>>4 != suback || len(answer) == 0 {
		return 0, fmt.Errorf("no SUBACK, but %#x", first)
	}
	return answer[len(answer)-1], nil
}

func (l *link) within(limit time.Duration) {
	if limit == 0 {
		_ = l.SetReadDeadline(time.Time{})
		return
	}
	_ = l.SetReadDeadline(time.Now().Add(limit))
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

// message is a PUBLISH into which its packet id and number are written.
type message struct {
	bytes      []byte
	id, number int
	refused    bool
}

func newMessage(topic string, qos byte, v5 bool, payload int) message {
	body := text(nil, topic)
	id := len(body)
	if qos > 0 {
		body = append(body, 0, 0)
	}
	if v5 {
		body = append(body, 0)
	}
	number := len(body)
	body = append(body, make([]byte, max(payload, 8))...)
	bytes := packet(publish<<4|qos<<1, body)
	head := len(bytes) - len(body)
	return message{bytes: bytes, id: head + id, number: head + number}
}

func text(to []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(s))), s...)
}

func packet(first byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}
