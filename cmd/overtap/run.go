package main

import (
	"context"
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
	"overtap/cmd/internal/daemon"
	"overtap/dataplane"
)

// stopLimit bounds the shutdown. It takes milliseconds; only a kernel that does
// not answer makes it long.
const stopLimit = 15 * time.Second

func newRunCommand() *cobra.Command {
	var path string
	var refuse bool
	c := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run the daemon until SIGTERM or SIGINT",
		Long: `Run the daemon: open a TAP device per network, put it on its bridge, and forward
between it and the peers. Logs go to stderr; a line with "ready" says that
traffic flows. On SIGHUP the configuration is read again, as by ` + "`overtap reload`" + `.
On SIGTERM or SIGINT everything that was made is removed.

While another daemon answers on the same control socket, this one takes its place:
queues, sockets and what was learned are handed over, traffic goes on, and the
other ends. When this one cannot start, the other goes on. What a daemon that was
killed left is taken over too.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(c, path)
			if err != nil {
				return err
			}
			// Whoever reads the log may go: the default action would end the
			// process at the next line, with nothing undone.
			signal.Ignore(syscall.SIGPIPE)
			log := newLogger(c.ErrOrStderr(), cfg.Log)
			if cfg.Engine.Confine {
				if err := giveUp(path, cfg.Control.Socket); err != nil {
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
				NoTakeover: refuse,
			})
		},
	}
	addConfig(c, &path)
	c.Flags().BoolVar(&refuse, "no-takeover", false, "refuse to start while another daemon answers on the control socket")
	return c
}

// giveUp leaves the process what it needs to run.
func giveUp(config, socket string) error {
	if err := confine.Files(confine.Paths{Config: config, Socket: socket}); err != nil {
		return err
	}
	return confine.Privileges()
}

// newEngine starts the engine on this host's TAPs and sockets.
func newEngine(o dataplane.Options) (daemon.Engine, error) {
	e, err := dataplane.New(o)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// newLogger returns the daemon's log.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
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
			log.Error(fmt.Sprintf("the shutdown did not end within %v: leaving what is left behind", stopLimit))
			os.Exit(exitError)
		})
	})
	return ctx, stop
}
