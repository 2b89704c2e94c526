package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// How long anybody may take to answer. Longer than a client waits for keys.
const patience = 10 * time.Second

// session is a connection whose CONNECT was accepted.
type session struct {
	net.Conn
	from *bufio.Reader
}

// refusal is a CONNACK that says no.
type refusal byte

func (r refusal) Error() string {
	return fmt.Sprintf("refused with %#02x", byte(r))
}

// open connects with MQTT 5.0; without a token, as nobody. `from`: the last two bytes of the address that it comes from.
func open(target string, from int, id, token string) (*session, error) {
	address := &net.TCPAddr{IP: net.IPv4(127, 8, byte(from>>8), byte(from))}
	dialer := net.Dialer{Timeout: patience, LocalAddr: address}
	socket, err := dialer.Dial("tcp", target)
	if err != nil {
		return nil, err
	}
	s := &session{Conn: socket, from: bufio.NewReaderSize(socket, 256)}
	if err := s.greet(id, token); err != nil {
		socket.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) greet(id, token string) error {
	flags, fields := byte(2), [][]byte{[]byte(id)}
	if token != "" {
		flags, fields = 0xC2, append(fields, []byte("any"), []byte(token))
	}
	body := append([]byte("\x00\x04MQTT\x05"), flags, 0, 0, 0)
	for _, field := range fields {
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(field))), field...)
	}
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := s.send(0x10, body); err != nil {
		return err
	}
	kind, answer, err := s.receive()
	if err != nil {
		return err
	}
	if kind != 0x20 || len(answer) < 2 {
		return fmt.Errorf("%#02x is no CONNACK", kind)
	}
	if answer[1] != 0 {
		return refusal(answer[1])
	}
	return s.SetDeadline(time.Time{})
}

// subscribe asks for one topic, with QoS 0.
func (s *session) subscribe(filter string) error {
	body := append([]byte{0, 1, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(filter)))...)
	if err := s.send(0x82, append(append(body, filter...), 0)); err != nil {
		return err
	}
	kind, answer, err := s.receive()
	if err == nil && (kind != 0x90 || answer[len(answer)-1] > 2) {
		err = fmt.Errorf("SUBSCRIBE: %#02x %x", kind, answer)
	}
	return err
}

// leave says DISCONNECT, and waits until the other side has closed: so no port of ours waits for a minute.
func (s *session) leave() error {
	defer s.Close()
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := s.send(0xE0, nil); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, s.from)
	return err
}

func (s *session) send(kind byte, body []byte) error {
	packet := binary.AppendUvarint([]byte{kind}, uint64(len(body)))
	_, err := s.Write(append(packet, body...))
	return err
}

func (s *session) receive() (byte, []byte, error) {
	kind, err := s.from.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	size, err := binary.ReadUvarint(s.from)
	if err != nil {
		return 0, nil, err
	}
	body := make([]byte, min(size, 1<<16))
	_, err = io.ReadFull(s.from, body)
	return kind, body, err
}
