package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/confine"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/daemon"
	"overtap/cmd/internal/printable"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"
)

// stopLimit bounds the shutdown. It takes milliseconds, and for each bridge that is
// removed up to 20 more (br_multicast_dev_del); only a kernel that does not answer
// makes it longer.
const stopLimit = 60 * time.Second

func newRunCommand() *cobra.Command {
	var path string
	var refuse bool
	c := &cobra.Command{
		Use:   "run [FILE]",
		Short: "Run the daemon until SIGTERM or SIGINT",
		Long: `Run the daemon by the configuration FILE, ` + defaultConfig + ` unless FILE or --config
names another: open a TAP device per network, put it on its bridge, and forward
between it and the peers. Logs go to stderr; a line with "ready" is written once
traffic flows. On SIGHUP the configuration is read again, as by ` + "`overtap reload`" + `.
On SIGTERM or SIGINT everything that was made is removed.

If another daemon answers on the same control socket, this one takes over from it:
it gets the queues, the sockets and the learned entries, traffic continues, and the
other daemon exits. If this one cannot start, the other one continues. What a daemon
that was killed left behind is adopted.`,
		Example: `  overtap run /etc/overtap/overtap.toml
  overtap run --no-takeover --config blue.toml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			cfg, path, err := load(c, path, args)
			if err != nil {
				return err
			}
			// The reader of the log may close it: the default action would end the
			// process at the next line, and undo nothing.
			signal.Ignore(syscall.SIGPIPE)
			log := newLogger(c.ErrOrStderr(), cfg.Log)
			// Before the process is confined: afterwards it may write only below it.
			made, err := control.MakeDirs(cfg.Control.Socket)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, control.RemoveDirs(made)) }()
			if cfg.Engine.Confine {
				paths := confine.Paths{Config: path, Socket: cfg.Control.Socket, Made: made}
				if cfg.Cluster.KeyFile != "" {
					paths.Read = append(paths.Read, cfg.Cluster.KeyFile)
				}
				if err := giveUp(paths); err != nil {
					return err
				}
			}
			ctx, stop := untilSignal(c.Context(), log)
			defer stop()
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			return daemon.Run(ctx, daemon.Options{
				Config: cfg, Path: path, Version: buildVersion(), Log: log, NewEngine: newEngine, HangUp: hup,
				NoTakeover: refuse, Made: made,
			})
		},
	}
	addConfig(c, &path)
	c.Flags().BoolVar(&refuse, "no-takeover", false, "refuse to start while another daemon answers on the control socket")
	return c
}

// giveUp drops the privileges that the process does not need to run.
func giveUp(p confine.Paths) error {
	if err := confine.Files(p); err != nil {
		return err
	}
	return confine.Privileges()
}

// newEngine starts the engine on this host's TAPs and sockets.
func newEngine(b linux.Options, o dataplane.Options) (daemon.Engine, error) {
	backend, err := linux.New(b)
	if err != nil {
		return nil, err
	}
	o.Backend = backend
	e, err := dataplane.New(o)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// newLogger returns the daemon's log. The handlers escape most of what cannot be
// printed; the writer escapes the rest.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	w = &printable.Writer{W: printable.Raw(w)}
	opts := &slog.HandlerOptions{Level: c.Level}
	if c.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// untilSignal returns a context that ends with the first SIGTERM or SIGINT.
// Later ones change nothing: the shutdown goes on, and ends at its limit.
func untilSignal(ctx context.Context, log *slog.Logger) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, func() {
		time.AfterFunc(stopLimit, func() {
			log.Error(fmt.Sprintf("the shutdown did not end within %v: exiting, and leaving the rest in place", stopLimit))
			os.Exit(exitError)
		})
	})
	return ctx, stop
}
