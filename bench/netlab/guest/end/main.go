// Command end is what package guest puts into its guest, to be the other end of
// tests:
//
//	end echo                              answers on TCP and UDP port 7
//	end stream ADDRESS BYTES              sends to such a service over TCP, compares
//	end datagrams ADDRESS BYTES COUNT     the same over UDP
//	end capture DEVICE COUNT              prints packets that come in, as they do
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"overtap/bench/traffic/echo"
)

// patience is how long a run may take.
const patience = time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "end:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var numbers []int
	for _, a := range args[min(2, len(args)):] {
		n, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch {
	case verb == "echo" && len(args) == 1:
		return serve(ctx)
	case verb == "stream" && len(numbers) == 1:
		return call(limited, "tcp", args[1], func(c net.Conn) error {
			return echo.Stream(limited, c.(*net.TCPConn), int64(numbers[0]))
		})
	case verb == "datagrams" && len(numbers) == 2:
		return call(limited, "udp", args[1], func(c net.Conn) error {
			return echo.Datagrams(limited, c.(*net.UDPConn), echo.DatagramOptions{Size: numbers[0], Count: numbers[1]})
		})
	case verb == "capture" && len(numbers) == 1:
		return capture(args[1], numbers[0])
	}
	return errors.New("want echo, stream ADDRESS BYTES, datagrams ADDRESS BYTES COUNT, or capture DEVICE COUNT")
}

func call(ctx context.Context, network, to string, f func(net.Conn) error) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, net.JoinHostPort(to, strconv.Itoa(echo.Port)))
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// serve answers on all addresses. It prints a line once it does.
func serve(ctx context.Context) error {
	streams, err := net.ListenTCP("tcp", &net.TCPAddr{Port: echo.Port})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, network := range []string{"udp4", "udp6"} {
		datagrams, err := net.ListenUDP(network, &net.UDPAddr{Port: echo.Port})
		if err != nil {
			return err
		}
		var l net.Listener
		if i == 0 {
			l = streams
		}
		g.Go(func() error { return echo.Serve(ctx, l, datagrams) })
	}
	fmt.Println("ready")
	return g.Wait()
}

// capture prints a line once it looks, and one of hexadecimal digits for each
// packet that comes in: with the link's header, if the device's packets have one.
func capture(dev string, count int) error {
	link, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	// Of no protocol until it is bound: nothing of other devices gets in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	defer unix.Close(fd)
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8 // in network byte order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}); err != nil {
		return fmt.Errorf("bind a packet socket to %s: %w", dev, err)
	}
	fmt.Println("ready")
	b := make([]byte, 1<<16)
	for count > 0 {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read from a packet socket: %w", err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		fmt.Println(hex.EncodeToString(b[:n]))
		count--
	}
	return nil
}
