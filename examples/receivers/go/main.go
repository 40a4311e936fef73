// Receives Postrider's webhooks: verifies, answers, and works afterwards. ../README.md says why in this order.
package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	seenFor  = 24 * time.Hour
	queueMax = 10_000
	bodyMax  = 1 << 20
	// A request must be answered soon, so its commands fail soon.
	answerWithin = 2 * time.Second
)

type event struct {
	Nonce string `json:"nonce"`
}

type receiver struct {
	secret []byte
	redis  *redis.Client
}

func (r *receiver) isGenuine(body []byte, headers http.Header) bool {
	mac := hmac.New(sha256.New, r.secret)
	mac.Write(body)
	expected := []byte("sha256=" + hex.EncodeToString(mac.Sum(nil)))
	now := hmac.Equal(expected, []byte(headers.Get("X-Nudj-Signature")))
	before := hmac.Equal(expected, []byte(headers.Get("X-Nudj-Signature-Previous")))
	return now || before
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, bodyMax))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if !r.isGenuine(body, request.Header) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var e event
	if json.Unmarshal(body, &e) != nil || e.Nonce == "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(request.Context(), answerWithin)
	defer cancel()
	status, err := r.accept(ctx, e.Nonce, body)
	if err != nil {
		log.Printf("redis: %v", err)
		status = http.StatusServiceUnavailable
	}
	w.WriteHeader(status)
}

// accept puts the body into the queue, unless it was processed before or the queue is full.
func (r *receiver) accept(ctx context.Context, nonce string, body []byte) (int, error) {
	reads := r.redis.Pipeline()
	seen, waiting := reads.Exists(ctx, "hooks:seen:"+nonce), reads.LLen(ctx, "hooks:queue")
	if _, err := reads.Exec(ctx); err != nil {
		return 0, err
	}
	if seen.Val() == 1 {
		return http.StatusOK, nil
	}
	if waiting.Val() >= queueMax {
		return http.StatusServiceUnavailable, nil
	}
	return http.StatusAccepted, r.redis.LPush(ctx, "hooks:queue", body).Err()
}

func processEvent(e event) error {
	fmt.Printf("processed %s\n", e.Nonce) // Your work.
	return nil
}

func (r *receiver) workOne(ctx context.Context) error {
	body, err := r.redis.BLMove(ctx, "hooks:queue", "hooks:working", "RIGHT", "LEFT", time.Second).Result()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if err != nil {
		return err
	}
	var e event
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		return err
	}
	seen := "hooks:seen:" + e.Nonce
	known, err := r.redis.Exists(ctx, seen).Result()
	if err != nil {
		return err
	}
	done := r.redis.TxPipeline()
	done.LRem(ctx, "hooks:working", 1, body)
	if known == 0 {
		if err := processEvent(e); err != nil {
			log.Printf("failed %s: %v", e.Nonce, err)
			done.LPush(ctx, "hooks:failed", body)
		} else {
			done.Set(ctx, seen, 1, seenFor)
		}
	}
	_, err = done.Exec(ctx)
	return err
}

// work ends at an error of Redis only.
func (r *receiver) work(ctx context.Context) error {
	for { // What a crash left behind.
		err := r.redis.LMove(ctx, "hooks:working", "hooks:queue", "LEFT", "RIGHT").Err()
		if errors.Is(err, redis.Nil) {
			break
		}
		if err != nil {
			return err
		}
	}
	for {
		if err := r.workOne(ctx); err != nil {
			return err
		}
	}
}

func main() {
	secret := os.Getenv("WEBHOOK_SECRET")
	if secret == "" {
		log.Fatal("WEBHOOK_SECRET is not set")
	}
	options, err := redis.ParseURL(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379"))
	if err != nil {
		log.Fatalf("REDIS_URL: %v", err)
	}
	options.ContextTimeoutEnabled = true
	// No command is sent again by itself: a second BLMOVE would leave behind what the first one moved.
	options.MaxRetries = -1
	r := &receiver{secret: []byte(secret), redis: redis.NewClient(options)}
	go func() {
		for {
			log.Printf("worker: %v", r.work(context.Background()))
			time.Sleep(time.Second)
		}
	}()
	http.Handle("POST /hooks", r)
	server := &http.Server{Addr: "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "9000"), ReadTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
