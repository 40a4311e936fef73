// Checks the requests of a file (see capture.py) with the published verifier. Arguments: as of verify.mjs.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

type request struct {
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

type key struct {
	Secret string `json:"secret"`
	Raw    bool   `json:"raw"`
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func verifier(key key) *standardwebhooks.Webhook {
	if key.Raw {
		return must(standardwebhooks.NewWebhookRaw([]byte(key.Secret)))
	}
	return must(standardwebhooks.NewWebhook(key.Secret))
}

func headers(request request, name, value string) http.Header {
	all := http.Header{}
	for name, value := range request.Headers {
		all.Set(name, value)
	}
	if name != "" {
		all.Set(name, value)
	}
	return all
}

func main() {
	log.SetFlags(0)
	keys := map[string]key{}
	if err := json.Unmarshal(must(os.ReadFile(os.Args[2])), &keys); err != nil {
		log.Fatal(err)
	}
	file := must(os.Open(os.Args[1]))
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 4<<20)
	deliveries, checked := 0, 0
	expect := func(wanted bool, err error, what string) {
		checked++
		if (err == nil) != wanted {
			log.Fatalf("%s: %v", what, err)
		}
	}
	for lines.Scan() {
		var request request
		if err := json.Unmarshal(lines.Bytes(), &request); err != nil {
			log.Fatal(err)
		}
		deliveries++
		path, body := request.Path, must(base64.StdEncoding.DecodeString(request.Body))
		changed := append([]byte{}, body...)
		changed[len(changed)-2] ^= 1
		own, other := verifier(keys[path]), verifier(key{Secret: "whsec_b3RoZXI="})
		expect(true, own.Verify(body, headers(request, "", "")), path+" as it arrived")
		expect(false, own.Verify(changed, headers(request, "", "")), path+", body changed")
		expect(false, own.Verify(body, headers(request, "webhook-id", "dlv_0")), path+", id changed")
		expect(false, own.Verify(body, headers(request, "webhook-signature", "")), path+", no signature")
		expect(false, other.Verify(body, headers(request, "", "")), path+", another secret")
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("go: %d deliveries, %d checks\n", deliveries, checked)
}
