// podbox is what the pods of the cluster's own tests run: a few small programs in one static file, for an image with
// nothing else in it. It is also the program that holds a pod's namespaces.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const usage = `usage: podbox PROGRAM
  cat FILE...            print files
  dial HOST:PORT         open a TCP connection and close it again
  fail STATUS TEXT       print a text on standard error and end with a status
  get URL                print what a web server answers; try for ten seconds
  lookup NAME            print the addresses of a name
  pause                  wait for the end
  serve PORT TEXT        answer each request with the text and the host's name
  sleep SECONDS          wait so long
  write FILE TEXT        write a file`

func main() {
	if len(os.Args) < 2 {
		end(errors.New(usage))
	}
	arguments := os.Args[2:]
	switch name := fmt.Sprintf("%s %d", os.Args[1], len(arguments)); {
	case os.Args[1] == "cat":
		end(cat(arguments))
	case name == "dial 1":
		end(dial(arguments[0]))
	case name == "fail 2":
		fmt.Fprintln(os.Stderr, arguments[1])
		status, _ := strconv.Atoi(arguments[0])
		os.Exit(status)
	case name == "get 1":
		end(get(arguments[0]))
	case name == "lookup 1":
		end(lookup(arguments[0]))
	case name == "pause 0":
		<-told()
	case name == "serve 2":
		end(serve(arguments[0], arguments[1]))
	case name == "sleep 1":
		end(sleep(arguments[0]))
	case name == "write 2":
		end(os.WriteFile(arguments[0], []byte(arguments[1]), 0o644))
	default:
		end(errors.New(usage))
	}
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// told gives a value when the process is asked to end: as the first process of a namespace it would not end otherwise.
func told() <-chan os.Signal {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	return stop
}

func cat(files []string) error {
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(content); err != nil {
			return err
		}
	}
	return nil
}

func dial(address string) error {
	connection, err := net.DialTimeout("tcp", address, 3*time.Second)
	if err != nil {
		return err
	}
	return connection.Close()
}

func get(url string) error {
	var err error
	client := &http.Client{Timeout: 3 * time.Second}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = getOnce(client, url); err == nil {
			return nil
		}
	}
	return err
}

func getOnce(client *http.Client, url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, body)
	}
	_, err = os.Stdout.Write(body)
	return err
}

func lookup(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	if err == nil {
		fmt.Println(strings.Join(addresses, "\n"))
	}
	return err
}

func serve(port, text string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	go func() {
		<-told()
		os.Exit(0)
	}()
	return http.ListenAndServe(":"+port, http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(answer, "%s %s\n", text, host)
	}))
}

func sleep(seconds string) error {
	duration, err := time.ParseDuration(seconds + "s")
	if err != nil {
		return err
	}
	select {
	case <-time.After(duration):
	case <-told():
	}
	return nil
}
