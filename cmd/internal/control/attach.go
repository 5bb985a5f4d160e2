package control

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"overtap/cmd/internal/attach"
)

// detachRequest is what is asked.
type detachRequest struct {
	attach.Selector
	// Handed: the namespace comes with the request; else it cannot be resolved
	// any more.
	Handed bool `json:"namespace_handed_over"`
}

// Attach joins the namespace ns, open until it returns, to a network.
func (c *Client) Attach(ctx context.Context, ns *os.File, r attach.Request) (attach.Made, error) {
	var m attach.Made
	err := c.handing(ns).do(ctx, http.MethodPost, pathAttach, r, &m)
	return m, err
}

// Detach removes an attachment of the namespace ns, open until it returns, or
// when it is nil, one that was made under the target's name.
func (c *Client) Detach(ctx context.Context, ns *os.File, s attach.Selector) (attach.Attachment, error) {
	var a attach.Attachment
	err := c.handing(ns).do(ctx, http.MethodPost, pathDetach, detachRequest{s, ns != nil}, &a)
	return a, err
}

// handleAttach routes the requests about attachments to d.
func handleAttach(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("POST "+pathAttach, func(w http.ResponseWriter, r *http.Request) {
		var in attach.Request
		if !request(w, r, &in) {
			return
		}
		// Else the end of the time to send a request ends its context too, as if
		// the client had gone (net/http's connReader.backgroundRead).
		if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
			answer(w, nil, fmt.Errorf("waiting for the client: %w", err))
			return
		}
		ns, err := handedOver(r.Context())
		if err != nil {
			answer(w, nil, err)
			return
		}
		defer ns.Close()
		m, err := d.Attach(r.Context(), ns, in)
		m.Addresses, m.Gateways = notNil(m.Addresses), notNil(m.Gateways)
		answer(w, m, err)
	})
	mux.HandleFunc("POST "+pathDetach, func(w http.ResponseWriter, r *http.Request) {
		var in detachRequest
		if !request(w, r, &in) {
			return
		}
		var ns *os.File
		if in.Handed {
			var err error
			if ns, err = handedOver(r.Context()); err != nil {
				answer(w, nil, err)
				return
			}
			defer ns.Close()
		}
		a, err := d.Detach(ns, in.Selector)
		a.Addresses = notNil(a.Addresses)
		answer(w, a, err)
	})
}
